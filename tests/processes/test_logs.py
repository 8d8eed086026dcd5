"""What a worker says, in real processes: whoever reads it, or does not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT_S = 30.0

WORKER = """
[worker]
name = "talkative"
handlers = ["h"]
watchdog_s = 1.0
shutdown_grace_s = 2.0
[broker]
driver = "embedded"
"""
HANDLERS = """
import os
from hexa_worker import Context, subscribe

@subscribe("work", action="do", concurrency=4)
async def do(event: dict, ctx: Context) -> None:
    for line in range(100):
        ctx.logger.info("%d %d %s", event["n"], line, "x" * 2000)
    print(event["n"], flush=True)
"""


class Project:
    """A folder with a worker whose handler talks."""

    def __init__(self, folder: Path, handlers: str = HANDLERS, worker: str = WORKER) -> None:
        self.folder = folder
        (folder / "worker.toml").write_text(worker)
        (folder / "h.py").write_text(handlers)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "hexa_worker", *arguments]

    def emit(self, count: int) -> None:
        lines = "".join(json.dumps({"channel": "work", "payload": {"n": n}}) + "\n" for n in range(count))
        subprocess.run(self.command("emit", "--file", "-"), cwd=self.folder, input=lines.encode(), check=True)

    @contextmanager
    def running(self, stderr: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        command = self.command("run", *arguments)
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=stderr) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.mark.parametrize("until_idle", [True, False])
def test_a_log_that_nobody_reads_holds_neither_handlers_nor_the_stop(tmp_path: Path, *, until_idle: bool) -> None:
    project = Project(tmp_path)
    project.emit(20)
    reading, writing = os.pipe()
    with project.running(writing, *(("--until-idle",) if until_idle else ())) as process:
        assert process.stdout is not None
        handled = {int(process.stdout.readline()) for _ in range(20)}
        assert handled == set(range(20))
        if not until_idle:
            process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert b"is killed" not in pipe.read()


def test_every_line_of_a_process_that_dies_is_there(tmp_path: Path) -> None:
    handlers = HANDLERS.replace('print(event["n"], flush=True)', "os._exit(3)")
    restarts = "[worker.process_restart]\ninitial_delay_s = 0.01\n"
    project = Project(tmp_path, handlers, WORKER + restarts)
    project.emit(1)
    with project.running(subprocess.PIPE, "--until-idle") as process:
        lines = [json.loads(line) for line in process.communicate(timeout=LIMIT_S)[1].splitlines()]
    said = [one["message"].split()[1] for one in lines if one["message"].endswith("xx")]
    assert said
    assert said == [str(number) for number in range(100)] * (len(said) // 100)
