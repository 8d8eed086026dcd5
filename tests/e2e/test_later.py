"""Events for later while the processes that move and handle them are killed: none is lost, none comes early."""

import os
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from hexa_worker import Event, SyncEmitter
from tests.deadlines import wait_until
from tests.e2e.project import Project

WORKER = """
[worker]
name = "sample"
handlers = ["h"]

[broker]
driver = "embedded"
path = "var/hexa.db"
"""
HANDLERS = """
import os
import time

from hexa_worker import subscribe


@subscribe("work", action="do")
async def do(due_s: float) -> None:
    with open("done.txt", "a") as file:
        file.write(f"{due_s} {time.time()} {os.getpid()}\\n")
"""
COUNT = 300
KILLS = 3


def test_no_event_for_later_is_lost_or_early_while_processes_are_killed(tmp_path: Path) -> None:
    project = Project(tmp_path / "project").write(WORKER, HANDLERS)
    file = project.folder / "done.txt"

    def done() -> list[tuple[float, float, int]]:
        rows = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [(float(due), float(at), int(pid)) for due, at, pid in rows]

    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(project.running("run"))
        emitter = stack.enter_context(SyncEmitter.from_config(project.folder / "worker.toml"))
        start = time.time()
        waits_s = [0.5 + number * 7 % COUNT / 100 for number in range(COUNT)]
        answers = emitter.emit_many([Event("work", start + wait_s, after=wait_s) for wait_s in waits_s])
        assert all(isinstance(one, str) for one in answers)
        for number in range(KILLS):
            wait_until(lambda least=(number + 1) * COUNT // (KILLS + 2): len(done()) >= least)  # type: ignore[misc]
            with suppress(ProcessLookupError):  # all that came since the last kill was of that process
                os.kill(done()[-1][2], signal.SIGKILL)
        wait_until(lambda: len({due for due, _, _ in done()}) == COUNT)
    assert all(at >= due for due, at, _ in done())
