"""Three services on one Kafka that share a lineage store: a script, a shop and its billing; one tree shows it all."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import LIMIT_S, Project
from tests.lab.base import Broker

pytestmark = pytest.mark.kafka

WORKER = """
[worker]
name = "{service}"
handlers = ["h"]

[broker]
driver = "kafka"
create_channels = true
servers = ["{address}"]

[lineage]
path = "../lineage.db"

[subscriptions.{name}-{action}.retry]
initial_interval_s = 0.2
maximum_retries = 2
"""
SHOP = """
from hexa_worker import Context, subscribe


@subscribe("{name}.orders", action="{name}-check")
async def check(order: dict, ctx: Context) -> None:
    await ctx.emit("{name}.checked", order, key=str(order["id"]))


@subscribe("{name}.invoices", action="{name}-notify")
async def notify(invoice: dict, ctx: Context) -> None:
    print("told", ctx.correlation_id, flush=True)
"""
BILLING = """
from hexa_worker import Context, DeadLetter, subscribe


@subscribe("{name}.checked", action="{name}-bill")
async def bill(order: dict, ctx: Context) -> None:
    if ctx.attempt == 0:
        raise ConnectionError("the bank is asleep")
    if order["amount"] < 0:
        raise DeadLetter("nothing to bill")
    await ctx.emit("{name}.invoices", {{"order": order["id"]}})


@subscribe("{name}.orders", action="{name}-audit")
async def audit(order: dict) -> None:
    print("audited", flush=True)
"""
SCRIPT = """
import sys

from hexa_worker import SyncEmitter

emitter = SyncEmitter.from_config(sys.argv[1])
for number, amount in ((1, 10.0), (2, -1.0)):
    order = {{"id": number, "amount": amount}}
    print(emitter.emit("{name}.orders", order, key=str(number), correlation_id=f"request-{{number}}"))
emitter.close()
"""


@pytest.fixture
def name(unique_name: Callable[..., str]) -> str:
    return unique_name("t")


@pytest.fixture
def services(kafka: Broker, name: str, tmp_path: Path) -> tuple[Project, Project]:
    """The shop and its billing, each with a worker.toml of its own."""

    def make(service: str, handlers: str, action: str) -> Project:
        worker = WORKER.format(service=service, address=kafka.address, name=name, action=action)
        return Project(tmp_path / service).write(worker, handlers.format(name=name))

    return make("shop", SHOP, "check"), make("billing", BILLING, "bill")


def emit_orders(folder: Path, name: str, config: Path) -> list[str]:
    """The third service: a script that emits two orders; their event ids."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(name=name))
    done = subprocess.run(
        [sys.executable, str(script), str(config)], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    return done.stdout.split()


def outcomes(tree: dict[str, Any]) -> dict[str, list[str]]:
    """What became of one event, for each action (without the prefix of this test)."""
    return {one["action"].rpartition("-")[2]: [step["outcome"] for step in one["steps"]] for one in tree["actions"]}


def test_one_trace_shows_what_a_script_and_two_services_did(
    services: tuple[Project, Project], name: str, tmp_path: Path
) -> None:
    shop, billing = services
    paid, refused = emit_orders(tmp_path, name, shop.folder / "worker.toml")
    with shop.running("run", "--processes", "1") as shop_worker, billing.running("run", "--processes", "1") as clerk:
        told = shop_worker.hear("told")
        clerk.hear_all("audited", "audited", "nothing to bill")
        for one in (shop_worker, clerk):
            one.stop()
    assert told.split() == ["told", "request-1"]

    tree = shop.json("trace", paid)
    assert outcomes(tree) == {"check": ["acked"], "audit": ["acked"]}
    (checked,) = tree["children"]
    assert (checked["channel"], checked["parent_id"]) == (f"{name}.checked", paid)
    assert outcomes(checked) == {"bill": ["retried", "acked"]}
    assert [one["state"] for one in checked["actions"]] == ["done"]
    (invoice,) = checked["children"]
    assert (invoice["channel"], outcomes(invoice)) == (f"{name}.invoices", {"notify": ["acked"]})
    assert billing.json("trace", invoice["event_id"]) == tree  # whoever asks, by whichever of its events

    (given_up,) = billing.json("trace", refused)["children"]
    assert outcomes(given_up) == {"bill": ["retried", "dead-lettered"]}
    (letter,) = billing.json("dlq", "list")
    assert (letter["root_id"], letter["error"]) == (refused, "DeadLetter: nothing to bill")
    assert shop.json("dlq", "list") == []
