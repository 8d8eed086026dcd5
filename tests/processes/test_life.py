"""Starting, stopping, restarting: real processes, real signals."""

import os
import signal
from pathlib import Path

from tests.processes.conftest import MakeStage
from tests.processes.stage import wait_gone


def test_every_slot_gets_a_process_in_a_session_of_its_own(make_stage: MakeStage) -> None:
    stage = make_stage(worker="processes = 3")
    stage.start()
    running = stage.hear("running", 3)
    assert {one.slot for one in running} == {0, 1, 2}
    for one in running:
        assert os.getsid(one.pid) == one.pid
    assert stage.stop() == 0


def test_one_process_of_a_worker_looks_at_the_broker_and_one_again_after_a_reload(make_stage: MakeStage) -> None:
    stage = make_stage("preflight", "1:once died die 3", worker="processes = 3")
    stage.start()
    stage.hear("does preflight")
    stage.hear("skips preflight", 3)
    stage.signal(signal.SIGHUP)
    stage.hear("does preflight", 2)
    stage.hear("skips preflight", 5)
    assert stage.stop() == 0
    assert [one.text for one in stage.said].count("does preflight") == 2


def test_a_stop_drains_every_process_and_exits_0(make_stage: MakeStage) -> None:
    stage = make_stage(worker="processes = 2")
    stage.start()
    stage.hear("running", 2)
    assert stage.stop() == 0
    assert len(stage.hear("drained", 2)) == 2


def test_ctrl_c_drains_like_a_termination(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start()
    stage.hear("running")
    stage.signal(signal.SIGINT)
    assert stage.ended() == 0
    stage.hear("drained")


def test_a_stop_while_a_process_boots_is_neither_lost_nor_deadly(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start()
    stage.hear("loading")
    assert stage.stop() == 0
    stage.hear("drained")


def test_a_second_stop_cancels_what_the_first_could_not_end(make_stage: MakeStage) -> None:
    stage = make_stage("ignore")
    stage.start()
    stage.hear("running")
    stage.signal(signal.SIGTERM)
    stage.hear("ignoring")
    stage.signal(signal.SIGTERM)
    stage.hear("cancelled")
    assert stage.ended() == 0


def test_a_third_stop_kills(make_stage: MakeStage) -> None:
    stage = make_stage("deaf")
    stage.start()
    stage.hear("running")
    stage.signal(signal.SIGTERM)
    stage.hear("deaf")
    stage.signal(signal.SIGTERM)
    stage.log("cancelling")
    stage.signal(signal.SIGTERM)
    assert stage.ended() == 1
    assert "third stop signal" in "\n".join(stage.logs)


def test_a_process_that_does_not_end_in_time_is_killed_and_nobody_is_blamed(make_stage: MakeStage) -> None:
    stage = make_stage("hold 7", "deaf", worker="shutdown_grace_s = 0.1")
    stage.start()
    stage.hear("running")
    assert stage.stop() == 1
    assert "did not stop in time" in stage.log("worker process died")["message"]
    stage.order("suspects 7")
    stage.start()
    stage.hear("crashes 0")


def test_a_dead_process_is_replaced_in_its_slot(make_stage: MakeStage) -> None:
    stage = make_stage("1:once died die 70", worker="processes = 2")
    stage.start()
    running = stage.hear("running", 3)
    assert sorted(one.slot for one in running) == [0, 1, 1]
    assert stage.log("worker process died")["slot"] == 1
    assert stage.stop() == 0


def test_a_process_that_keeps_dying_is_given_up_and_the_others_drain(make_stage: MakeStage) -> None:
    stage = make_stage(
        "1:die 70",
        worker="processes = 2\n[worker.process_restart]\nmax_restarts = 2\ninitial_delay_s = 0.01",
    )
    stage.start()
    assert stage.ended() == 1
    assert [one.slot for one in stage.hear("drained")] == [0]
    assert len([one for one in stage.said if one.slot == 1 and one.text == "running"]) == 3
    assert stage.log("given up")["slot"] == 1


def test_a_configuration_that_cannot_boot_ends_everything_with_its_message_once(make_stage: MakeStage) -> None:
    stage = make_stage(worker="processes = 3")
    (stage.folder / "broken").touch()
    stage.start()
    assert stage.ended() == 2
    assert [line for line in stage.logs if "mailbox is no number" in line] == [
        "error: worker.toml: subscriptions.do.mailbox: mailbox is no number (1 or more)"
    ]


def test_until_idle_ends_when_every_process_has_ended_by_itself(make_stage: MakeStage) -> None:
    stage = make_stage("once died die 70", "ack 5", "exit 0", worker="processes = 2")
    stage.start("--until-idle")
    assert stage.ended() == 0
    assert stage.log("do: handled 10, retried 0, dead letters 0")


def test_until_idle_tells_that_a_subscription_has_failed(make_stage: MakeStage) -> None:
    stage = make_stage("1:exit 1", "exit 0", worker="processes = 2")
    stage.start("--until-idle")
    assert stage.ended() == 1


def test_children_die_with_a_killed_parent(make_stage: MakeStage) -> None:
    stage = make_stage("1:block", worker="processes = 2")
    stage.start()
    running = stage.hear("running", 2)
    stage.hear("blocking")
    stage.parent.kill()
    for one in running:
        wait_gone(one.pid, 20)


def test_a_second_parent_on_the_same_state_is_refused(make_stage: MakeStage) -> None:
    stage = make_stage()
    first = stage.start()
    stage.hear("running")
    stage.start()
    assert stage.ended() == 2
    assert "another worker called 'staged'" in stage.logs[-1]
    assert first.poll() is None


def test_closed_standard_streams_harm_nobody(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start(prefix=("sh", "-c", 'exec "$@" <&- >&-', "sh"))
    (running,) = stage.hear("running")
    for descriptor in range(3):
        Path(f"/proc/{running.pid}/fd/{descriptor}").readlink()  # or it fails
    assert stage.stop() == 0


def test_as_process_1_it_waits_for_orphans(make_stage: MakeStage) -> None:
    stage = make_stage("orphan")
    stage.start(prefix=("unshare", "--fork", "--pid", "--kill-child", "--mount-proc"))
    stage.hear("orphaned")
    stage.until(lambda: "no zombies" in {one.text for one in stage.said}, "the orphan to be waited for")


def test_another_process_can_be_added_and_removed(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start()
    stage.hear("running")
    stage.signal(signal.SIGTTIN)
    assert [one.slot for one in stage.hear("running", 2)] == [0, 1]
    stage.signal(signal.SIGTTOU)
    assert [one.slot for one in stage.hear("drained")] == [1]
    stage.signal(signal.SIGTTOU)
    stage.log("the number of processes stays at 1")
    assert stage.stop() == 0


def test_a_process_that_could_not_start_is_the_first_to_be_removed(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start()
    stage.hear("running")
    (stage.folder / "broken").touch()  # found by new processes only
    stage.signal(signal.SIGTTIN)
    stage.log("process cannot start, the others run on")
    stage.signal(signal.SIGTTOU)
    stage.log("scaling to 1 processes")
    stage.signal(signal.SIGTTOU)
    stage.log("the number of processes stays at 1")
    assert stage.stop() == 1, "one could not start"


def test_of_two_processes_the_one_that_could_not_start_again_is_removed(make_stage: MakeStage) -> None:
    stage = make_stage(worker="processes = 2")
    stage.start()
    first, second = sorted(stage.hear("running", 2))
    (stage.folder / "broken").touch()  # found by new processes only
    os.kill(first.pid, signal.SIGKILL)
    stage.log("process cannot start, the others run on")
    stage.signal(signal.SIGTTOU)
    stage.log("scaling to 1 processes")
    stage.signal(signal.SIGTTOU)
    stage.log("the number of processes stays at 1")
    stage.signal(signal.SIGUSR1)
    assert stage.log("process is up")["pid"] == second.pid
    assert stage.stop() == 1, "one could not start"
