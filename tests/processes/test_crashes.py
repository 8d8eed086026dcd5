"""Who is blamed for the death of a process, and how it is found out."""

import os
import signal

import pytest

from tests.processes.conftest import MakeStage
from tests.processes.stage import wait_gone


def test_a_delivery_in_flight_at_a_crash_is_named_and_counted(make_stage: MakeStage) -> None:
    stage = make_stage("suspects 7", "once died hold 7", "once died_too die 70")
    stage.start()
    line = stage.log("worker process died")
    assert (line["action"], line["message_id"], line["crashes"]) == ("do", "work-7", 1)
    stage.hear("crashes 1")
    assert stage.stop() == 0


def test_a_handler_that_exits_with_0_is_a_crash_too(make_stage: MakeStage) -> None:
    stage = make_stage("suspects 7", "once held hold 7", "once died die 0")
    stage.start()
    assert stage.log("worker process died: exit code 0")["message_id"] == "work-7"
    stage.hear("crashes 1")


def test_a_process_killed_while_idle_blames_nobody(make_stage: MakeStage) -> None:
    stage = make_stage("suspects 7")
    stage.start()
    (first,) = stage.hear("crashes 0")
    os.kill(first.pid, signal.SIGKILL)
    line = stage.log("worker process died")
    assert "message_id" not in line
    assert "in_hand" not in line
    stage.hear("crashes 0", 2)


def test_only_a_delivery_that_the_process_names_itself_is_blamed(make_stage: MakeStage) -> None:
    stage = make_stage("suspects 7", "suspects 8", "once a hold 7", "once b hold 8", "once c stuck 8")
    stage.start()
    assert stage.log("worker process died")["message_id"] == "work-8"
    stage.hear("crashes 1")
    assert [one.text for one in stage.said if one.text.startswith("crashes")] == [
        "crashes 0",
        "crashes 0",
        "crashes 0",
        "crashes 1",
    ]


def test_a_suspect_shields_those_beside_it(make_stage: MakeStage) -> None:
    stage = make_stage("once a hold 7", "once b die 70", "once c hold 7", "once d hold 8", "once e die 70")
    stage.start()
    stage.until(lambda: any('"crashes":2' in line for line in stage.logs), "the second crash")
    assert not any("work-8" in line for line in stage.logs)


def test_a_settled_suspect_is_forgotten(make_stage: MakeStage) -> None:
    stage = make_stage("once a hold 7", "once b die 70", "suspects 7", "settled 7", "once c die 70", "suspects 7")
    stage.start()
    stage.hear("crashes 1")
    stage.hear("crashes 0")


def test_a_blocked_loop_is_killed_and_the_delivery_named_with_the_place(make_stage: MakeStage) -> None:
    stage = make_stage("once a hold 7", "once b block", worker="watchdog_s = 0.4")
    stage.start()
    line = stage.log("has not answered")
    assert line["message_id"] == "work-7"
    assert "do_block" in line["stack"]
    stage.hear("running", 2)
    assert stage.stop() == 0


def test_a_stopped_process_is_killed_and_replaced(make_stage: MakeStage) -> None:
    stage = make_stage(worker="watchdog_s = 0.4")
    stage.start()
    (first,) = stage.hear("running")
    os.kill(first.pid, signal.SIGSTOP)
    stage.log("has not answered")
    assert stage.hear("running", 2)[1].pid != first.pid
    assert stage.stop() == 0


def test_a_parent_that_was_stopped_itself_kills_nobody(make_stage: MakeStage) -> None:
    stage = make_stage("beats 8", worker="watchdog_s = 0.4")
    stage.start()
    stage.hear("running")
    stage.signal(signal.SIGSTOP)
    stage.hear("beaten")  # by then the parent has slept through several deadlines
    stage.signal(signal.SIGCONT)
    assert stage.stop() == 0
    assert not any("not answered" in line for line in stage.logs)


def test_what_a_killed_parent_left_is_counted_by_the_next(make_stage: MakeStage) -> None:
    stage = make_stage("hold 7")
    stage.start()
    stage.hear("holding 7")
    stage.parent.kill()
    stage.parent.wait()
    stage.order("suspects 7")
    stage.start()
    assert stage.log("died with its parent")["in_hand"] == "do work-7 (1)"
    stage.hear("crashes 1")


def test_crashes_that_are_blamed_on_deliveries_never_give_a_process_up(make_stage: MakeStage) -> None:
    restart = "[worker.process_restart]\nmax_restarts = 1\ninitial_delay_s = 0.01\nmaximum_delay_s = 0.02"
    stage = make_stage("hold 7", "die 70", worker=restart)
    stage.start()
    stage.hear("holding 7", 5)
    assert not any("given up" in line for line in stage.logs)


def test_a_process_that_somebody_else_kills_is_described_so(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start()
    (first,) = stage.hear("running")
    os.kill(first.pid, signal.SIGKILL)
    message = stage.log("worker process died")["message"]
    assert "killed by SIGKILL, which its parent did not send" in message
    stage.hear("running", 2)
    assert stage.stop() == 0


@pytest.mark.parametrize("order", ["die 70", "die -9", "block"])
def test_what_a_process_has_started_dies_with_it(make_stage: MakeStage, order: str) -> None:
    stage = make_stage("once a helper", f"once b {order}", worker="watchdog_s = 1.0")
    stage.start()
    stage.until(lambda: any(one.text.startswith("helper") for one in stage.said), "a helper")
    helper = int(next(one.text for one in stage.said if one.text.startswith("helper")).split()[1])
    wait_gone(helper, 20)
    assert stage.stop() == 0
