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
watchdog_s = 5.0
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
    handlers = HANDLERS.replace('print(event["n"], flush=True)', "os._exit(3)").replace("100", "20")
    restarts = "[worker.process_restart]\ninitial_delay_s = 0.01\n"
    project = Project(tmp_path, handlers, WORKER + restarts)
    project.emit(1)
    with project.running(subprocess.PIPE, "--until-idle") as process:
        lines = [json.loads(line) for line in process.communicate(timeout=LIMIT_S)[1].splitlines()]
    said = [one["message"].split()[1] for one in lines if one["message"].endswith("xx")]
    assert said
    assert said == [str(number) for number in range(20)] * (len(said) // 20)


CONFIGURED = """
import logging, logging.config
from hexa_worker import Context, subscribe

logging.getLogger("early").warning("before")
CONFIGURE

@subscribe("work", action="do")
async def do(event: dict, ctx: Context) -> None:
    logging.getLogger("application").warning("from the application", extra={"order": 17})
    ctx.logger.info("from the context")
    raise ValueError("no")
"""
OWN_LINES = ("from the context", "handler failed: no", "dead letters 1")


def said_by(tmp_path: Path, configuring: str) -> list[str]:
    """The lines of a worker whose application configures logging."""
    retries = "[subscriptions.do.retry]\nmaximum_retries = 0\n"
    project = Project(tmp_path, CONFIGURED.replace("CONFIGURE", configuring), WORKER + retries)
    project.emit(1)
    with project.running(subprocess.PIPE, "--until-idle") as process:
        return process.communicate(timeout=LIMIT_S)[1].decode().splitlines()


def is_json(line: str) -> bool:
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


def test_a_configuration_of_the_application_moves_its_lines_and_silences_nobody(tmp_path: Path) -> None:
    where = '"handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}}'
    how = f'{{"version": 1, "formatters": {{"f": {{"format": "APP %(message)s"}}}}, {where}, "root": '
    lines = said_by(tmp_path, f'logging.config.dictConfig({how}{{"handlers": ["h"], "level": "INFO"}}}})')
    assert [line for line in lines if not is_json(line)] == ["APP from the application"]
    told = " ".join(json.loads(line)["message"] for line in lines if is_json(line))
    for line in ("before", *OWN_LINES):
        assert line in told


def test_a_configuration_that_names_the_worker_moves_its_lines_too(tmp_path: Path) -> None:
    where = '"handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}}'
    how = f'{{"version": 1, "formatters": {{"f": {{"format": "APP %(message)s"}}}}, {where}, "loggers": '
    named = '{"hexa_worker": {}}, "root": {"handlers": ["h"], "level": "INFO"}}'
    lines = said_by(tmp_path, f"logging.config.dictConfig({how}{named})")
    assert {"APP from the application", "APP from the context", "APP handler failed: no"} <= set(lines)


@pytest.mark.parametrize(
    ("how", "application"),
    [("level=logging.INFO", None), ('format="APP %(message)s"', "APP from the application")],
)
def test_a_basic_configuration_is_honoured(tmp_path: Path, how: str, application: str | None) -> None:
    lines = said_by(tmp_path, f"logging.basicConfig({how})")
    assert [line for line in lines if not is_json(line)] == ([application] if application else [])
    told = " ".join(json.loads(line)["message"] for line in lines if is_json(line))
    for line in ("before", *OWN_LINES):
        assert line in told
    assert ("from the application" in told) is (application is None)
