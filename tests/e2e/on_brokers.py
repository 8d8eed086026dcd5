"""One project on every broker: the same handlers and the same worker.toml, only ``[broker]`` is another.

The claims are functions; the file of each broker (``test_cli_kafka.py``, …) takes them over and says where it is.
"""

import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.project import Project
from tests.lab.ports import reserve_port

WORKER = """
[worker]
name = "sample"
handlers = ["h"]
processes = 2

[broker]
{broker}

[subscriptions.{name}-do.retry]
initial_interval_s = 0.2
maximum_retries = 1

[subscriptions.{name}-sibling.retry]
maximum_retries = 1

[subscriptions.{name}-grow.retry]
maximum_retries = 1
"""
HANDLERS = """
from pathlib import Path

import anyio
from hexa_worker import Context, subscribe


@subscribe("{name}.work", action="{name}-do")
async def do(e: dict, ctx: Context) -> None:
    print("begun", e["id"], ctx.attempt, flush=True)
    if e.get("fail") and not Path("mended").exists():
        raise ValueError(f"order {{e['id']}} is bad")
    if e.get("child"):
        await ctx.emit("{name}.child", {{"of": e["id"]}})
    while e.get("slow") and not Path("go").exists():
        await anyio.sleep(0.02)
    with open("done.txt", "a") as file:
        file.write(f"{{e['id']}} {{ctx.key}} {{ctx.headers.get('colour', '')}}\\n")


@subscribe("{name}.work", action="{name}-sibling")
async def sibling(e: dict, ctx: Context) -> None:
    with open("sibling.txt", "a") as file:
        file.write(f"{{ctx.event_id}}\\n")


@subscribe("{name}.child", action="{name}-grow")
async def grow(e: dict, ctx: Context) -> None:
    pass
"""


class Place(NamedTuple):
    """Where a broker is.

    Attributes:
        broker: the lines of ``[broker]``.
        nowhere: the same for an address where nothing listens.
        name: what all names of this test begin with.
        progress: what the broker calls the place where progress is kept.
        too_large: bytes of a payload that is over its limit.
    """

    broker: str
    nowhere: str
    name: str
    progress: str
    too_large: int = 1_200_000

    def project(self, folder: Path, broker: str = "", *, child: str = "{name}.child") -> Project:
        """A project there.

        Args:
            folder: the test's.
            broker: lines of another broker.
            child: the channel of the action ``grow``.
        """
        worker = WORKER.format(broker=broker or self.broker, name=self.name)
        handlers = HANDLERS.replace("{name}.child", child).format(name=self.name)
        return Project(folder / "project").write(worker, handlers)


def free_port() -> int:
    """A port where nothing listens, for long enough."""
    port = reserve_port()
    port.release()
    return port.number


def lag(project: Project, place: Place) -> dict[str, tuple[int, int, int]]:
    """For each action: ready or in hand, delayed, dead letters."""
    return {
        one["action"].removeprefix(f"{place.name}-"): (
            one["ready"] + one["leased"],
            one["delayed"],
            one["dead_letters"],
        )
        for one in project.json("lag")
    }


def done(project: Project) -> list[str]:
    """The lines that ended handlers of ``do`` wrote."""
    path = project.folder / "done.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_check_connect_shows_the_broker_and_what_a_worker_would_make(place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path)
    before = project.json("check", "--connect")
    assert before["broker"]["address"] in place.broker
    assert any(character.isdigit() for character in before["broker"]["versions"])
    found = [one for subscription in before["subscriptions"] for one in subscription["findings"]]
    assert not any(one["exists"] or one["problem"] for one in found), found
    project("emit", f"{place.name}.work", "--payload", '{"id": 1}')  # makes what is missing
    project("run", "--until-idle")
    after = project.json("check", "--connect")
    found = [one for subscription in after["subscriptions"] for one in subscription["findings"]]
    assert all(one["exists"] and not one["problem"] for one in found), found
    assert {one["kind"] for one in found} == {"channel", "retry channel", "dead letter", place.progress}
    drawn = project("check", "--connect")
    assert f"{place.name}.work" in drawn.stdout
    assert "the broker is ready" in drawn.stderr


def test_events_are_emitted_handled_retried_dead_lettered_traced_and_counted(place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path)
    work = f"{place.name}.work"
    assert set(lag(project, place).values()) == {(0, 0, 0)}
    printed = project("emit", work, "--payload", '{"id": 0}', "--key", "k", "--header", "colour=red").stdout
    lines = [{"channel": work, "key": f"k{n}", "payload": {"id": n}} for n in range(1, 41)]
    lines[6]["payload"] |= {"child": True}  # type: ignore[operator]  # a dict
    lines[7]["payload"] |= {"fail": True}  # type: ignore[operator]  # as above
    (project.folder / "events.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ids = [printed.strip(), *project("emit", "--file", "events.jsonl").stdout.split()]
    assert lag(project, place) == {"do": (41, 0, 0), "sibling": (41, 0, 0), "grow": (0, 0, 0)}

    ran = project("run", "--processes", "2", "--until-idle")
    assert {line.split()[0] for line in done(project)} == {str(n) for n in range(41)} - {"8"}
    assert "0 k red" in done(project)
    assert set((project.folder / "sibling.txt").read_text().split()) == set(ids)
    assert [line.split()[2] for line in ran.stdout.splitlines() if line.startswith("begun 8 ")] == ["0", "1"]

    (letter,) = project.json("dlq", "list")
    assert (letter["action"], letter["channel"], letter["root_id"]) == (f"{place.name}-do", work, ids[8])
    assert (letter["attempts"], letter["error"]) == (2, "ValueError: order 8 is bad")
    assert project.json("dlq", "show", letter["id"], "--payload")["payload"] == {"id": 8, "fail": True}
    assert lag(project, place) == {"do": (0, 0, 1), "sibling": (0, 0, 0), "grow": (0, 0, 0)}
    given_up = project.json("trace", ids[8])
    assert outcomes(given_up, place)["do"] == ["retried", "dead-lettered"]
    assert sorted(one["state"] for one in given_up["actions"]) == ["dead-lettered", "done"]
    tree = project.json("trace", ids[7])
    (child,) = tree["children"]
    assert outcomes(child, place) == {"grow": ["acked"]}
    assert project.json("trace", child["event_id"]) == tree


def outcomes(tree: dict[str, Any], place: Place) -> dict[str, list[str]]:
    """What became of one event of a trace, for each action."""
    return {
        one["action"].removeprefix(f"{place.name}-"): [step["outcome"] for step in one["steps"]]
        for one in tree["actions"]
    }


def test_a_channel_is_looked_into_without_consuming_it(place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path)
    work = f"{place.name}.work"
    lines = [{"channel": work, "key": f"k{n}", "payload": {"id": n}} for n in range(5)]
    given = "\n".join(map(json.dumps, lines)).encode()
    ids = project("emit", "--file", "-", given=given).stdout.split()
    shown = project("channel", "peek", work, "--last", "3", "--payload", "--json").stdout.splitlines()
    found = {one["event_id"]: json.loads(one["payload"])["id"] for one in map(json.loads, shown)}
    assert len(found) == 3
    assert all(ids[number] == event for event, number in found.items())
    assert set(lag(project, place).values()) == {(5, 0, 0), (0, 0, 0)}


def test_lag_disturbs_no_worker_and_a_drain_lets_handlers_end(place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path)
    project("emit", f"{place.name}.work", "--payload", '{"id": 1, "slow": true}')
    with project.running("run", "--processes", "1") as worker:  # a second one that joins late takes the event away
        worker.hear("begun 1 0")
        assert lag(project, place)["do"] == (1, 0, 0)
        project("check", "--connect")
        worker.signal(signal.SIGTERM)
        worker.hear("draining")
        (project.folder / "go").touch()
        assert worker.ended() == 0, worker.lines
    assert [line.split()[0] for line in done(project)] == ["1"]
    assert sum(line.startswith("begun") for line in worker.lines) == 1, "".join(worker.lines)
    assert lag(project, place)["do"] == (0, 0, 0)


def test_a_second_sigterm_cancels_and_the_event_comes_again(place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path)
    project("emit", f"{place.name}.work", "--payload", '{"id": 1, "slow": true}')
    with project.running("run", "--processes", "1") as worker:  # a second one that joins late takes the event away
        worker.hear("begun 1 0")
        worker.signal(signal.SIGTERM)
        worker.hear("draining")
        worker.signal(signal.SIGTERM)
        worker.hear("cancelling")
        assert worker.ended() == 0, worker.lines
    assert done(project) == []
    (project.folder / "go").touch()
    assert "begun 1 0" in project("run", "--until-idle").stdout  # a release takes no attempt
    assert [line.split()[0] for line in done(project)] == ["1"]


def test_a_broker_that_is_away_is_one_line_and_exit_code_1(place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path, place.nowhere)
    for command in (("check", "--connect"), ("lag",), ("emit", f"{place.name}.work", "--payload", "1")):
        text = project.refusal(*command, code=1)
        assert "127.0.0.1:" in text
        assert "Connection refused (is it up, and is broker." in text


def test_a_worker_waits_for_a_broker_that_is_away_says_so_once_and_can_be_stopped(place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path, place.nowhere)
    with project.running("run", "--processes", "1") as worker:
        line = worker.hear("broker is away, trying again")
        assert "127.0.0.1:" in line
        assert "Connection refused (is it up, and is broker." in line
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0, worker.lines
    assert sum("broker is away" in one for one in worker.lines) == 1, worker.lines


def test_a_payload_that_is_too_large_is_one_line_and_the_worker_never_sees_it(place: Place, tmp_path: Path) -> None:
    project = place.project(tmp_path)
    large = json.dumps({"channel": f"{place.name}.work", "payload": "x" * (place.too_large - 2)}).encode()
    done = project("emit", "--file", "-", given=large, code=1)
    assert f"line 1: payload of {place.too_large:,} bytes is over the broker's limit of" in done.stderr
    assert set(lag(project, place).values()) == {(0, 0, 0)}


def refuse_a_login(project: Project, address: str, secret: str) -> None:
    """A refused login is one line, exit code 2, whoever asks; a worker does not try again."""
    for command in (("check", "--connect"), ("run",)):
        text = project.refusal(*command, code=2)
        assert address in text
        assert "the login was refused" in text
        assert secret not in text


def fail_alone(project: Project, place: Place, channel: str, address: str) -> None:
    """Missing rights on the channel of ``grow`` fail that subscription; its siblings run on, the exit code tells."""
    project("emit", f"{place.name}.work", "--payload", '{"id": 1}')
    with project.running("run", "--processes", "1") as worker:
        refused = worker.hear("subscription failed")
        worker.hear("given up")
        assert address in refused
        assert channel in refused
        project("emit", f"{place.name}.work", "--payload", '{"id": 2}')
        while len(done(project)) < 2:
            worker.hear("begun")
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 1, worker.lines
    assert sorted(line.split()[0] for line in done(project)) == ["1", "2"]
    assert not any(line.startswith("Traceback") for line in worker.lines)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_comes_twice_is_handled_once_by_each_subscription_retries_included(
    place: Place, tmp_path: Path, backend: str
) -> None:
    project = place.project(tmp_path)
    path = project.folder / "worker.toml"
    key = f'idempotency_key = "payload:id"\n[subscriptions.{place.name}-do.retry]'
    worker = path.read_text().replace(
        f"[subscriptions.{place.name}-do.retry]", f"[subscriptions.{place.name}-do]\n{key}"
    )
    path.write_text(f'{worker}\n[dedup]\nstore = "embedded"\n')
    payloads = [{"id": number // 2, "fail": number >= 16} for number in range(20)]
    lines = [{"channel": f"{place.name}.work", "key": str(one["id"]), "payload": one} for one in payloads]
    ids = project("emit", "--file", "-", given="\n".join(map(json.dumps, lines)).encode()).stdout.split()
    ran = project("run", "--until-idle", "--backend", backend)
    begun = sorted(line for line in ran.stdout.splitlines() if line.startswith("begun"))
    assert begun == sorted(
        f"begun {number} {attempt}" for number in range(10) for attempt in (0, 1)[: 1 + (number > 7)]
    )
    assert sorted((project.folder / "sibling.txt").read_text().split()) == sorted(ids), "each event is one of its own"
    assert len(project.json("dlq", "list")) == 2
