"""The control socket of a parent, from the outside: what it answers, to whom, and what cannot harm it."""

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hexa_worker.processes.control.messages import MAX_LINE
from hexa_worker.processes.control.server import CONNECTIONS
from hexa_worker.processes.control.socket_path import reachable
from tests.processes.conftest import MakeStage
from tests.processes.stage import LIMIT_S, Stage

STATUS = {"version": 1, "do": "status"}
SOCKET = "var/staged.sock"


class Wire:
    """A connection to the control socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        with reachable(path) as short:
            self.socket.connect(short)
        self.socket.settimeout(LIMIT_S)
        self._file = self.socket.makefile("rb")

    def send(self, *values: object) -> None:
        self.socket.sendall(b"".join(json.dumps(value).encode() + b"\n" for value in values))

    def hear(self) -> Any:
        return json.loads(self._file.readline())

    def ask(self, value: object) -> Any:
        self.send(value)
        return self.hear()

    def closed(self) -> bool:
        """Wait for the end."""
        try:
            return self._file.read() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def wired(stage: Stage, path: str = SOCKET) -> Iterator[Wire]:
    wire = Wire(stage.folder / path)
    try:
        yield wire
    finally:
        wire.close()


def until_ready(stage: Stage, times: int) -> None:
    stage.until(lambda: sum("worker process is ready" in line for line in stage.logs) == times, f"{times} ready")


def started(make_stage: MakeStage, worker: str = "", processes: int = 1) -> Stage:
    stage = make_stage(worker=f"processes = {processes}\n{worker}")
    stage.start()
    until_ready(stage, processes)
    return stage


def test_a_status_tells_of_processes_and_subscriptions(make_stage: MakeStage) -> None:
    stage = started(make_stage, processes=2)
    with wired(stage) as wire:
        answer = wire.ask(STATUS)
    assert (answer["type"], answer["version"], answer["ok"]) == ("result", 1, True)
    status = answer["data"]
    assert (status["name"], status["ready"], status["stopping"]) == ("staged", True, False)
    assert [(one["slot"], one["phase"], one["ready"]) for one in status["processes"]] == [
        (0, "up", True),
        (1, "up", True),
    ]
    assert [(one["action"], one["states"], one["paused"]) for one in status["subscriptions"]] == [
        ("do", {"running": 2}, False)
    ]
    assert stage.stop() == 0


def test_only_its_user_may_reach_it_and_it_is_gone_after_a_stop(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    mode = (stage.folder / SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stage.stop() == 0
    assert not (stage.folder / SOCKET).exists()


def test_another_version_is_refused_with_those_that_are_spoken_and_the_talk_goes_on(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    with wired(stage) as wire:
        refused = wire.ask({"version": 2, "do": "status", "something": "new"})
        assert (refused["type"], refused["code"], refused["versions"]) == ("refused", "version", [1])
        assert wire.ask({**STATUS, "something": "new"})["ok"], "a field that is not known is skipped"
    assert stage.stop() == 0


def test_what_cannot_be_understood_is_refused_and_nothing_else_happens(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    with wired(stage) as wire:
        for line in (
            b"\n\n  \n\xff\xfe\x00garbage",
            b"[]",
            b"{}",
            b'{"version": 1}',
            b'{"version": 1, "do": "explode"}',
            b'{"version": 1, "do": "pause"}',
            b'{"version": 1, "do": "pause", "action": 7}',
            b'{"version": "1", "do": "status"}',
        ):
            wire.socket.sendall(line + b"\n")
            assert wire.hear()["code"] == "request", line
        assert wire.ask(STATUS)["ok"]
    assert stage.stop() == 0


def test_a_request_beyond_all_measure_ends_its_connection_alone(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    with wired(stage) as wire, wired(stage) as other:
        with suppress(BrokenPipeError):  # it may be closed before all is sent
            wire.socket.sendall(b"x" * (MAX_LINE + 100_000))
        assert wire.hear()["code"] == "limit"
        assert wire.closed()
        assert other.ask(STATUS)["ok"]
    assert stage.stop() == 0


def test_silent_connections_take_no_place_from_one_that_asks(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    silent = [Wire(stage.folder / SOCKET) for _ in range(2 * CONNECTIONS)]
    with wired(stage) as wire:
        assert wire.ask(STATUS)["ok"]
    assert silent[0].closed(), "the oldest made room"
    for one in silent:
        one.close()
    assert stage.stop() == 0


def test_a_flood_of_requests_whose_answers_nobody_reads_is_cut_off_and_others_are_answered(
    make_stage: MakeStage,
) -> None:
    stage = started(make_stage, "watchdog_s = 5.0")
    with wired(stage) as flood, wired(stage) as wire:
        line = json.dumps(STATUS).encode() + b"\n"
        flood.socket.settimeout(0.2)
        with suppress(OSError):  # it is not read any more, or cut off
            flood.socket.sendall(line * 200_000)
            pytest.fail("whatever is sent is read")
        assert wire.ask(STATUS)["ok"]
    with wired(stage) as wire:
        assert wire.ask(STATUS)["data"]["processes"][0]["restarts"] == 0
    assert stage.stop() == 0


def test_requests_that_come_together_are_answered_in_their_order_also_to_one_that_says_nothing_more(
    make_stage: MakeStage,
) -> None:
    stage = started(make_stage)
    with wired(stage) as wire:
        wire.send(STATUS, {"version": 7, "do": "status"}, {"version": 1, "do": "history"})
        wire.socket.shutdown(socket.SHUT_WR)
        assert [wire.hear()["type"] for _ in range(3)] == ["result", "refused", "result"]
        assert wire.closed()
    assert stage.stop() == 0


def test_a_socket_that_a_killed_parent_left_is_replaced(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    stage.parent.kill()
    stage.parent.wait()
    assert (stage.folder / SOCKET).exists()
    stage.start()
    until_ready(stage, 2)
    with wired(stage) as wire:
        assert wire.ask(STATUS)["data"]["pid"] == stage.parent.pid
    assert stage.stop() == 0


def test_two_workers_with_one_state_dir_have_a_socket_each(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    first = stage.parent
    text = (stage.folder / "worker.toml").read_text()
    (stage.folder / "worker.toml").write_text(text.replace('"staged"', '"other"'))
    stage.start()
    until_ready(stage, 2)
    with wired(stage) as wire, wired(stage, "var/other.sock") as other:
        assert wire.ask(STATUS)["data"]["name"] == "staged"
        assert other.ask(STATUS)["data"]["name"] == "other"
    assert stage.stop() == 0
    first.send_signal(signal.SIGTERM)
    assert first.wait(LIMIT_S) == 0


def test_a_state_dir_with_a_long_path_is_no_obstacle(make_stage: MakeStage) -> None:
    folder = "/".join(["a-name-that-is-quite-long"] * 6)
    stage = started(make_stage, f'state_dir = "{folder}"')
    with wired(stage, f"{folder}/staged.sock") as wire:
        assert wire.ask(STATUS)["ok"]
    assert stage.stop() == 0


def test_a_worker_whose_socket_cannot_be_made_says_so_and_runs(make_stage: MakeStage) -> None:
    stage = make_stage()
    (stage.folder / SOCKET).mkdir(parents=True)
    (stage.folder / "var").chmod(0o700)
    stage.start()
    assert SOCKET in stage.log("nobody can control this worker")["message"]
    stage.log("worker process is ready")
    assert stage.stop() == 0


@pytest.mark.parametrize("content", ["not JSON", '{"format": 2, "paused": {}}', '{"paused": 3}'])
def test_a_worker_that_cannot_read_what_is_paused_does_not_start(make_stage: MakeStage, content: str) -> None:
    stage = make_stage()
    (stage.folder / "var").mkdir(mode=0o700)
    (stage.folder / "var/staged.control.json").write_text(content)
    stage.start()
    assert stage.ended() == 2
    assert "what is paused cannot be read" in "".join(stage.logs)


def test_a_drain_is_accepted_told_of_in_the_end_and_kept(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    with wired(stage) as wire:
        accepted = wire.ask({"version": 1, "do": "drain"})
        assert (accepted["type"], accepted["number"]) == ("accepted", 1)
        assert f"(process {os.getpid()})" in accepted["by"]
        assert wire.hear() == {"type": "result", "version": 1, "ok": True, "message": "drained", "data": None}
    assert stage.ended() == 0
    (kept,) = json.loads((stage.folder / "var/staged.control.json").read_text())["history"]
    assert (kept["request"], kept["state"], kept["by"]) == ("drain", "done", accepted["by"])
    assert stat.S_IMODE((stage.folder / "var/staged.control.json").stat().st_mode) == 0o600


def test_a_process_that_does_not_follow_in_time_is_named(make_stage: MakeStage) -> None:
    stage = started(make_stage)  # the stand-in reports once, before it is asked
    with wired(stage) as wire:
        assert wire.ask({"version": 1, "do": "pause", "action": "do"})["type"] == "accepted"
        result = wire.hear()
        assert (result["ok"], "process 0" in result["message"]) == (False, True)
        assert wire.ask({"version": 1, "do": "history"})["data"][0]["state"] == "failed"
    assert stage.stop() == 0


def test_a_restart_ends_when_every_process_was_replaced_and_says_why_it_was_refused(make_stage: MakeStage) -> None:
    stage = started(make_stage, processes=2)
    with wired(stage) as wire:
        before = {one["pid"] for one in wire.ask(STATUS)["data"]["processes"]}
        assert wire.ask({"version": 1, "do": "restart"})["type"] == "accepted"
        result = wire.hear()
        assert (result["ok"], result["message"]) == (True, "every process was replaced")
        status = wire.ask(STATUS)["data"]
        assert not before & {one["pid"] for one in status["processes"]}
        assert status["reload"]["state"] == "done"

        (stage.folder / "broken").touch()  # the stand-in refuses its configuration
        wire.ask({"version": 1, "do": "restart"})
        result = wire.hear()
        assert (result["ok"], "mailbox is no number" in result["message"]) == (False, True)
        (stage.folder / "worker.toml").write_text("[worker")
        wire.ask({"version": 1, "do": "restart"})
        assert wire.hear()["ok"] is False
        reload = wire.ask(STATUS)["data"]["reload"]
        assert (reload["state"], "worker.toml" in reload["reason"]) == ("failed", True)
    assert stage.stop() == 0


def test_scaling_ends_when_the_processes_are_ready_or_have_drained(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    with wired(stage) as wire:
        for processes in (3, 1):
            wire.ask({"version": 1, "do": "scale", "processes": processes})
            assert wire.hear()["ok"]
            assert len(wire.ask(STATUS)["data"]["processes"]) == processes
        assert wire.ask({"version": 1, "do": "scale", "processes": 0})["code"] == "request"
    assert stage.stop() == 0


def test_a_scale_that_another_one_overtakes_is_not_said_to_be_done(make_stage: MakeStage) -> None:
    stage = started(make_stage)
    with wired(stage) as wire:
        wire.socket.sendall(b"".join(b'{"version": 1, "do": "scale", "processes": %d}\n' % count for count in (3, 2)))
        heard = [wire.hear() for _ in range(4)]
        results = {one["message"]: one["ok"] for one in heard if "message" in one}
        assert results == {"another scale took its place": False, "2 ready": True}
    assert stage.stop() == 0
