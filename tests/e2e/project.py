"""A user's project in a temporary folder, and the real command line in it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = """
[worker]
name = "sample"
handlers = ["h"]

[broker]
driver = "embedded"
path = "var/hexa.db"

[subscriptions.do.retry]
initial_interval_s = 0.05
maximum_attempts = 1
"""
HANDLERS = """
from pathlib import Path

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

    def write(self, worker: str = WORKER, handlers: str = HANDLERS) -> "Project":
        """Make the folder a project."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "worker.toml").write_text(worker)
        (self.folder / "h.py").write_text(handlers)
        return self

    def environment(self) -> dict[str, str]:
        """As a user's shell has it, without what would change the output."""
        unwanted = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "HEXA_WORKER_FAULTS"}
        return {name: value for name, value in os.environ.items() if name not in unwanted}

    def __call__(
        self, *arguments: str, given: bytes = b"", code: int = 0, folder: Path | None = None, faults: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one command; its exit code must be `code`. `faults` are injected, see `hexa_worker.faults`."""
        done = subprocess.run(
            [sys.executable, "-m", "hexa_worker", *arguments],
            cwd=folder or self.folder,
            input=given,
            capture_output=True,
            timeout=60,
            check=False,
            env=self.environment() | ({"HEXA_WORKER_FAULTS": faults} if faults else {}),
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code, f"exit code {done.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def json(self, *arguments: str, given: bytes = b"") -> Any:
        """Run one command with ``--json``."""
        return json.loads(self(*arguments, "--json", given=given).stdout)

    def emit(self, payload: object, channel: str = "work") -> str:
        """Emit one event; returns its id."""
        return self("emit", channel, "--payload", json.dumps(payload)).stdout.strip()

    def drain(self) -> None:
        """Handle everything."""
        self("run", "--until-idle")
