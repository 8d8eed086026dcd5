"""What the parent tells systemd, when nobody listens yet."""

import socket
from pathlib import Path

from hexa_worker.processes.slot import SlotPhase
from hexa_worker.processes.status.overview import Overview, Process
from hexa_worker.processes.systemd import Systemd
from hexa_worker.telemetry.report import Report

UP = Process(slot=0, pid=1, phase=SlotPhase.UP, ready=True, retiring=False, restarts=0, report=Report(booted=True))
READY = Overview(name="any", processes=(UP,), totals={}, suspects=0, stopping=False, standing_s=0.0)


def test_what_systemd_could_not_be_told_is_told_again(tmp_path: Path) -> None:
    now = [0.0]
    systemd = Systemd(str(tmp_path / "notify"), None, clock=lambda: now[0])
    systemd.tell(lambda: READY, None, stopping=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        now[0] += 2.0
        systemd.tell(lambda: READY, None, stopping=False)
        assert listening.recv(4096).decode().split("\n") == ["READY=1", "STATUS=1 of 1 processes ready"]
