"""Closed, full and broken standard streams: a command does its work, says what it can, and shows no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

WORKER = '[worker]\nname = "streams"\nhandlers = ["h"]\n[broker]\ndriver = "embedded"\n'
HANDLERS = """
from hexa_worker import subscribe

@subscribe("work")
async def do(e: dict) -> None: ...
"""
COMMANDS = {
    "check": 0,
    "run --until-idle": 0,
    "lag": 0,
    "dlq list --json": 0,
    "emit --file - <lines": 0,
    "no-such-command": 2,
}
STREAMS = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "2>/dev/full >&-"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "worker.toml").write_text(WORKER)
    (tmp_path / "h.py").write_text(HANDLERS)
    (tmp_path / "lines").write_text('{"channel": "work", "payload": {}}\n' * 3)
    return tmp_path


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    command = f"set -o pipefail; {sys.executable} -m hexa_worker {line}"
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, check=False, capture_output=True, text=True, timeout=60, input=""
    )


@pytest.mark.parametrize("streams", STREAMS)
def test_a_stream_that_is_closed_or_full_breaks_no_command(project: Path, streams: str) -> None:
    for command, code in COMMANDS.items():
        done = shell(project, f"{command} {streams}")
        full = streams == ">/dev/full" and command not in ("run --until-idle", "no-such-command")
        assert done.returncode == (1 if full else code), (command, done)
        assert "Traceback" not in done.stderr, command
        if full:
            assert done.stderr.splitlines()[-1] == "error: the output cannot be written: No space left on device"


@pytest.mark.parametrize("command", ["check", "lag", "lag --json", "dlq list", "--help", "check --json"])
def test_a_reader_that_has_gone_is_met_in_silence(project: Path, command: str) -> None:
    done = shell(project, f"{command} | true")
    assert done.returncode in (0, 1)  # how fast it went
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_what_is_emitted_with_every_stream_closed_is_stored(project: Path) -> None:
    assert shell(project, "emit --file lines <&- >&- 2>&-").returncode == 0
    assert '"ready":3' in shell(project, "lag --json").stdout
