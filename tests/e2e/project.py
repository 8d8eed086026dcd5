"""A user's project in a temporary folder, and the real command line in it."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 90.0
"""How long anything may take on a busy machine."""

WORKER = """
[worker]
name = "sample"
handlers = ["h"]

[broker]
driver = "embedded"
path = "var/hexa.db"

[subscriptions.do.retry]
initial_interval_s = 0.05
maximum_retries = 1
"""
HANDLERS = """
from pathlib import Path

import pytest

from hexa_worker import Context, DeadLetter, subscribe


@subscribe("work", action="do")
async def do(e: dict, ctx: Context) -> None:
    if e.get("fail") and not Path("mended").exists():
        raise ValueError(f"order {e['id']} is bad")
    if e.get("child"):
        await ctx.emit("child", {"of": e["id"]})


@subscribe("work", action="sibling")
async def sibling(e: dict, ctx: Context) -> None:
    with open("sibling.txt", "a") as file:
        file.write(f"{ctx.event_id}\\n")


@subscribe("child", action="grow")
async def grow(e: dict, ctx: Context) -> None:
    pass
"""


class Project:
    """Runs ``hexa-worker`` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        """Added to the environment of its commands."""

    def write(self, worker: str = WORKER, handlers: str = HANDLERS) -> "Project":
        """Make the folder a project."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "worker.toml").write_text(worker)
        (self.folder / "h.py").write_text(handlers)
        return self

    def environment(self) -> dict[str, str]:
        """As a user's shell has it, without what would change the output."""
        unwanted = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "HEXA_WORKER_FAULTS"}
        return {name: value for name, value in os.environ.items() if name not in unwanted} | self.variables

    def __call__(
        self,
        *arguments: str,
        given: bytes = b"",
        code: int = 0,
        folder: Path | None = None,
        faults: str = "",
        prefix: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run one command, after the words of `prefix`; its exit code must be `code`.

        `faults` are injected, see `hexa_worker.faults`.
        """
        try:
            done = subprocess.run(
                [*prefix, sys.executable, "-m", "hexa_worker", *arguments],
                cwd=folder or self.folder,
                input=given,
                capture_output=True,
                timeout=LIMIT_S,
                check=False,
                env=self.environment() | ({"HEXA_WORKER_FAULTS": faults} if faults else {}),
            )
        except subprocess.TimeoutExpired as error:
            said = b"\n".join(filter(None, (error.stdout, error.stderr))).decode(errors="replace")
            pytest.fail(f"{' '.join(arguments)} did not end within {LIMIT_S:.0f} s; it said:\n{said}")
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code, f"exit code {done.returncode}\n{out}\n{err}"
        # Of the command itself; what a log line tells of a dead letter is within its JSON.
        assert not any(line.startswith("Traceback") for line in err.splitlines()), err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    @contextmanager
    def running(self, *arguments: str) -> "Iterator[Running]":
        """Start a command that goes on beside the test; it is killed at the end of the block."""
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "hexa_worker", *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment(),
        ) as process:
            running = Running(process)
            try:
                yield running
            finally:
                process.kill()
                running.finish()

    def json(self, *arguments: str, given: bytes = b"") -> Any:
        """Run one command with ``--json``."""
        return json.loads(self(*arguments, "--json", given=given).stdout)

    def refusal(self, *arguments: str, code: int, prefix: Sequence[str] = ()) -> str:
        """Run one command that must end with one error and no result; its text."""
        done = self(*arguments, code=code, prefix=prefix)
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: "), line
        return line.removeprefix("error: ")

    def emit(self, payload: object, channel: str = "work") -> str:
        """Emit one event; returns its id."""
        return self("emit", channel, "--payload", json.dumps(payload)).stdout.strip()

    def drain(self) -> None:
        """Handle everything."""
        self("run", "--until-idle")


class Running:
    """A command that runs: what it says, signals, its end.

    Args:
        process: it, with one pipe for everything it says.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.lines: list[str] = []
        self._process = process
        self._said: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line.decode())

    def hear(self, text: str) -> str:
        """Wait for a line with `text` that was not waited for before; returns it."""
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                line = self._said.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"waited in vain for {text!r}; said:\n{''.join(self.lines)}") from None
            self.lines.append(line)
            if text in line:
                return line

    def hear_all(self, *texts: str) -> None:
        """Wait for lines with these texts, in any order; a text that is given twice must come twice."""
        missing = list(texts)
        while missing:
            line = self.hear("")
            found = next((text for text in missing if text in line), None)
            if found is not None:
                missing.remove(found)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """Drain; it must end well."""
        self.signal(signal.SIGTERM)
        assert self.ended() == 0, "".join(self.lines)

    def ended(self) -> int:
        """Wait for the end; the exit code. Everything it said is in `lines` then."""
        code = self._process.wait(LIMIT_S)
        self.finish()
        return code

    def finish(self) -> None:
        """Read what is left."""
        self._reader.join(LIMIT_S)
        while not self._said.empty():
            self.lines.append(self._said.get())
