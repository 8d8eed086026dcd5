"""A canary in every secret, payload and header: nothing that a worker says or shows anywhere has it."""

import json
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil

from tests.drivers.foreign_producers import CANARY, nobody
from tests.e2e.project import Project

WORKER = """
[worker]
name = "sample"
handlers = ["h"]
processes = 1
log = {{ level = "debug" }}
http = {{ port = 0 }}
[broker]
driver = "embedded"
[dedup]
store = "redis"
url = "redis://user:${{SECRET}}@{away}/0"
[lineage]
store = "postgres"
url = "postgresql://user:${{SECRET}}@{away}/lineage?connect_timeout=1"
[subscriptions.do.retry]
initial_interval_s = 0.05
maximum_retries = 1
"""
HANDLERS = """
from typing import Literal
from hexa_worker import Context, subscribe


@subscribe("work", action="do")
async def do(e: dict, ctx: Context) -> None:
    assert e["secret"] and ctx.headers["token"] and ctx.key
    text = f"cannot reach redis://user:{e['secret']}/x@host, password={e['secret']}"
    raise ValueError(text)


@subscribe("choice", action="choose")
async def choose(e: dict[str, Literal["a"]], ctx: Context) -> None:
    pass
"""


def test_no_secret_payload_or_header_is_said_or_shown(tmp_path: Path) -> None:
    project = Project(tmp_path / "project").write(WORKER.format(away=nobody()), HANDLERS)
    project.variables["SECRET"] = CANARY
    said = [project("check").stdout, project("trace", "x", code=1).stderr]
    for channel in ("work", "choice"):
        event = {"channel": channel, "key": "k", "headers": {"token": CANARY}, "payload": {"secret": CANARY}}
        project("emit", "--file", "-", given=json.dumps(event).encode())
    with project.running("run") as running:
        address = running.hear("status pages on").partition("http://")[2].partition("/")[0]
        running.hear_all('"next":"dead letter"', '"next":"dead letter"')
        said += [page(f"http://{address}/{name}") for name in ("live", "ready", "status", "metrics")]
        said += [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
        running.stop()
    said += [*running.lines, *(project("dlq", "list", *more).stdout for more in ((), ("--json",)))]
    assert any("lineage is not kept" in one for one in running.lines)
    assert any("ValueError" in one for one in running.lines)
    assert [one for one in said if CANARY in one] == []


def page(url: str) -> str:
    """What a status page says, whatever its status."""
    try:
        with urlopen(url) as answer:
            return str(answer.read())
    except HTTPError as error:
        return str(error.read())
