"""What systemd hears of a worker whose unit says ``Type=notify``."""

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.conftest import MakeStage
from tests.processes.stage import LIMIT_S, Stage


class Manager:
    """Listens where systemd would."""

    def __init__(self, path: Path) -> None:
        self.heard: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self._environ = {**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "500000"}

    def start(self, stage: Stage) -> None:
        """Start a worker as a service."""
        stage.start(env=self._environ)

    def until(self, line: str, times: int = 1) -> None:
        """Listen until `line` was heard so often."""
        end = time.monotonic() + LIMIT_S
        while self.heard.count(line) < times:
            assert select.select([self.socket], [], [], end - time.monotonic())[0], f"{line} not in {self.heard}"
            self.heard += self.socket.recv(65536).decode().split("\n")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(tmp_path / "notify")
    yield listening
    listening.socket.close()


def test_systemd_hears_when_all_processes_are_ready_and_how_it_stands(make_stage: MakeStage, manager: Manager) -> None:
    stage = make_stage(worker="processes = 2")
    manager.start(stage)
    stage.hear("running", 2)
    manager.until("STATUS=2 of 2 processes ready")
    manager.until("READY=1")
    assert stage.stop() == 0
    manager.until("STOPPING=1")
    assert manager.heard.count("READY=1") == 1


def test_the_watchdog_is_fed_while_the_parent_turns(make_stage: MakeStage, manager: Manager) -> None:
    stage = make_stage()
    manager.start(stage)
    manager.until("WATCHDOG=1", 5)
    assert stage.stop() == 0


def test_a_worker_whose_broker_is_away_says_why_it_is_not_ready(make_stage: MakeStage, manager: Manager) -> None:
    stage = make_stage("early", "waiting")
    manager.start(stage)
    manager.until("STATUS=0 of 1 processes ready; do: broker away")
    assert "READY=1" not in manager.heard
    assert stage.stop() == 0


def test_children_are_not_who_systemd_watches(make_stage: MakeStage, manager: Manager) -> None:
    stage = make_stage()
    manager.start(stage)
    (child,) = stage.hear("running")
    environ = Path(f"/proc/{child.pid}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environ
    assert b"WATCHDOG_USEC" not in environ
    assert stage.stop() == 0


def test_a_worker_runs_where_nobody_listens(make_stage: MakeStage, manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "notify").unlink()
    stage = make_stage()
    manager.start(stage)
    stage.hear("running")
    assert stage.stop() == 0
