"""docs/drivers.md: what each driver promises, made from its capabilities, so that it stays true.

``python -m hexa_worker.testing.drivers_page [FILE]``; every client library must be installed.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from hexa_worker.config.pulsar import Pulsar
from hexa_worker.drivers import embedded, kafka, memory, nats, pulsar
from hexa_worker.drivers.base import Capabilities

_HEAD = """# Drivers

The same handlers and the same worker.toml mean the same on every driver; this is where they can differ. One conformance
suite (`hexa_worker.testing.check_driver`) judges them all; a claim is left out only by what stands here.

This page is made from the drivers' capabilities by `python -m hexa_worker.testing.drivers_page`.
"""
ALL = (memory.CAPABILITIES, embedded.CAPABILITIES, kafka.CAPABILITIES, nats.CAPABILITIES, pulsar.capabilities(Pulsar()))
_ROWS: tuple[tuple[str, Callable[[Capabilities], str]], ...] = (
    ("a confirmed emit survives every process", lambda one: _yes(one.durable)),
    ("many processes share a subscription", lambda one: _yes(one.shared)),
    ("order kept across processes", lambda one: ", ".join(sorted(order.value for order in one.order))),
    ("events for later (`after`, `at`)", lambda one: _yes(one.delays_events)),
    ("a retry or an event for later comes at most this late, never early", lambda one: f"{one.delay_accuracy_s:g} s"),
    ("attempts of retries in their place outlive their process", lambda one: _yes(one.keeps_attempts)),
    ("deliveries of a dead process come again", lambda one: _redelivery(one.redelivery_s)),
    ("the broker counts deliveries that ended in a crash", lambda one: _yes(one.counts_deliveries)),
    ("a process that joins takes work over (rebalance)", lambda one: _yes(one.revokes)),
    ("subscriptions by pattern", lambda one: _yes(one.patterns)),
    ("largest payload", lambda one: f"{one.max_payload:,} bytes" if one.max_payload else "the broker's limit"),
    ("header order, repeated headers kept", lambda one: f"{_yes(one.header_order)}, {_yes(one.header_duplicates)}"),
)


def drivers_text() -> str:
    """The page as the committed file holds it."""
    lines = [_HEAD, "| |" + "".join(f" {one.name} |" for one in ALL), "|---" * (len(ALL) + 1) + "|"]
    lines += [f"| {title} |" + "".join(f" {cell(one)} |" for one in ALL) for title, cell in _ROWS]
    for one in ALL:
        lines += [f"\n## {one.name}\n", *(f"- {note}" for note in one.notes or ("Nothing to add.",))]
    return "\n".join(lines) + "\n"


def _yes(value: bool) -> str:  # noqa: FBT001 - a formatter of truth values
    return "yes" if value else "no"


def _redelivery(seconds: float | None) -> str:
    return "at once" if not seconds else f"within about {seconds:g} s"


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/drivers.md")
    target.write_text(drivers_text(), encoding="utf-8")
