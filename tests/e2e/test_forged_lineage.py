"""Control headers that strangers write: they shorten no ladder, suppress no event, and break no letter or trace."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from hexa_worker.config.load import load_config
from hexa_worker.core.message import Headers, Message
from hexa_worker.drivers.base import Driver
from hexa_worker.drivers.opening import make_driver, opened, specs
from hexa_worker.errors import DriverError
from hexa_worker.subscriptions.loader import load_plans
from tests.e2e.project import Project
from tests.lab.base import Broker

WORKER = """
[worker]
name = "sample"
handlers = ["h"]

[broker]
{broker}

[dedup]
store = "embedded"

[subscriptions.{name}-do.retry]
initial_interval_s = 0.05
maximum_retries = 2
"""
HANDLERS = """
from hexa_worker import Context, subscribe


@subscribe("{name}.work", action="{name}-do")
async def do(e: dict, ctx: Context) -> None:
    with open("begun.txt", "a") as file:
        file.write(f"{{e['id']}} {{ctx.attempt}}\\n")
    if e.get("fail"):
        raise ValueError("no")
"""
CLAIMS: dict[str, Headers] = {
    "attempt": (("hexa-attempt", b"999"), ("hexa-failures", b"999:1,2"), ("hexa-first-failed-at", b"1")),
    "redrive": (("hexa-redriven-from", b"do.dlq-0"), ("hexa-redriven-for", b"x"), ("hexa-dead-at", b"1")),
    "root": (("hexa-root-id", b"somebody-else-s"), ("hexa-parent-id", b"nobody"), ("hexa-origin-id", b"x-0-1")),
    "twice": (("hexa-event-id", b"one"), ("hexa-event-id", b"two"), ("hexa-root-id", b"a"), ("hexa-root-id", b"b")),
    "bytes": (("hexa-event-id", b"\xff\xfe"), ("hexa-root-id", b"\x00"), ("hexa-failures", b"\xff")),
    "long": (("hexa-event-id", b"x" * 10_000), ("hexa-root-id", b"y" * 10_000)),
    "dead": (("hexa-error", b"Forged"), ("hexa-fingerprint", b"f"), ("hexa-due-ms", b"99999999999999")),
}
HUGE = 10 * 1024 * 1024


BROKERS = {
    "embedded": 'driver = "embedded"\npath = "var/hexa.db"',
    "kafka": 'driver = "kafka"\ncreate_channels = true\npartitions = 1\nservers = ["{0.address}"]',
    "nats": 'driver = "nats"\ncreate_channels = true\nservers = ["{0.address}"]',
    "pulsar": 'driver = "pulsar"\nurl = "{0.address}"\nadmin_url = "{0.admin_address}"',
}


@pytest.fixture(
    params=["embedded", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("kafka", "nats", "pulsar"))]
)
def project(request: pytest.FixtureRequest, tmp_path: Path, unique_name: Callable[..., str]) -> Project:
    """A project whose events may carry anything; its subscription is called as its only action."""
    node: Broker | None = None if request.param == "embedded" else request.getfixturevalue(request.param)
    broker = BROKERS[request.param].format(node)
    name = unique_name("f")
    return Project(tmp_path / name).write(WORKER.format(broker=broker, name=name), HANDLERS.format(name=name))


def publish(project: Project, *records: tuple[bytes, Headers]) -> list[str]:
    """Write records as a stranger does; their message ids."""

    async def run() -> list[str]:
        config = load_config(project.folder / "worker.toml")
        driver: Driver
        async with opened(make_driver(config)) as driver:
            await driver.declare(specs(load_plans(config)))
            channel = f"{project.folder.name}.work"
            answers = await driver.publish([Message(channel=channel, payload=p, headers=h) for p, h in records])
            assert not any(isinstance(answer, DriverError) for answer in answers), answers
            return [str(answer) for answer in answers]

    return anyio.run(run)


def begun(project: Project) -> Counter[str]:
    """How often each event began."""
    return Counter(line.split()[0] for line in (project.folder / "begun.txt").read_text().splitlines())


def test_claims_shorten_no_ladder_and_every_letter_tells_its_own_story(project: Project) -> None:
    payloads = {name: b'{"id": "%b", "fail": true}' % name.encode() for name in CLAIMS}
    publish(project, *((payloads[name], headers) for name, headers in CLAIMS.items()))
    project.drain()
    assert begun(project) == Counter(dict.fromkeys(CLAIMS, 3))
    found = project.json("dlq", "list")
    assert len(found) == len(CLAIMS)
    for one in found:
        assert (one["attempts"], one["redriven_from"], one["error"]) == (3, None, "ValueError: no")
        assert one["first_failed_at"] > "2020"
    for one in found[:2]:  # it looks into every channel of the broker, and tests have made thousands
        assert project.json("trace", one["event_id"])["root_id"]
    (redriven,) = {one["fingerprint"] for one in found}
    assert redriven != "f"
    assert project.json("dlq", "redrive", "--all", "--yes")["redrove"] == len(CLAIMS)


def test_an_id_that_names_the_place_of_another_record_suppresses_nothing(project: Project) -> None:
    (first,) = publish(project, (b'{"id": "real-0"}', ()))
    base, _, offset = first.rpartition("-")
    ahead = [f"{base}-{int(offset) + step}".encode() for step in (2, 3)]
    publish(project, (b'{"id": "forged"}', (("hexa-event-id", ahead[0]), ("hexa-root-id", ahead[1]))))
    publish(project, (b'{"id": "real-1"}', ()), (b'{"id": "real-2"}', ()))
    project.drain()
    assert begun(project) == Counter(["real-0", "forged", "real-1", "real-2"])


def test_a_header_of_ten_megabytes_stops_nobody(tmp_path: Path, unique_name: Callable[..., str]) -> None:
    name = unique_name("f")
    worker = WORKER.format(broker='driver = "embedded"', name=name)
    project = Project(tmp_path / name).write(worker, HANDLERS.format(name=name))
    claims = (("hexa-root-id", b"r" * HUGE), ("hexa-failures", b"9" * HUGE))
    publish(project, (b'{"id": "huge", "fail": true}', claims), (b'{"id": "small"}', ()))
    project.drain()
    assert begun(project) == Counter({"huge": 3, "small": 1})
    (letter,) = project.json("dlq", "list")
    assert (letter["attempts"], len(letter["root_id"]) < 300) == (3, True)
