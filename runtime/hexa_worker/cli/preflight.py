"""What ``check --connect`` finds at the broker, for people and for machines. Nothing there is changed."""

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import structs

from hexa_worker.cli.terminal import clean, console, write

if TYPE_CHECKING:
    from hexa_worker.config.model import Config
    from hexa_worker.drivers.base import Finding
    from hexa_worker.subscriptions.plan import Loaded


class Look(NamedTuple):
    """What was found: of the broker, for each action, what is wrong with the claim store, and of the outbox."""

    driver: str
    facts: Mapping[str, str]
    findings: "Mapping[str, Sequence[Finding]]"
    claims: Sequence[str] = ()
    outbox: str | None = None

    @property
    def warnings(self) -> "list[Finding]":
        """What a worker would lose later; named once, whoever shares it."""
        found = {
            (one.kind, one.name, one.warning): one for every in self.findings.values() for one in every if one.warning
        }
        return list(found.values())

    @property
    def problems(self) -> "list[Finding]":
        """What would keep a worker from starting; named once, whoever shares it."""
        found = {(one.kind, one.name): one for every in self.findings.values() for one in every if one.problem}
        return list(found.values())


async def look(config: "Config", loaded: "Loaded") -> Look:
    """Connect and look.

    Raises:
        DriverUnavailable: the broker is away.
        DriverRejected: it refuses this login, or is none that we can use.
    """
    from hexa_worker.drivers.opening import make_driver, opened, specs  # noqa: PLC0415 - lazy by design

    async with opened(make_driver(config)) as driver:
        facts = await driver.inspect()
        findings = {spec.action: await driver.preflight(spec) for spec in specs(loaded)}
        return Look(driver.capabilities.name, facts, findings, await _look_at_claims(config), _look_at_outbox(config))


def _look_at_outbox(config: "Config") -> str | None:
    """What was found of the outbox, in a few words; None where there is none. It keeps no worker from starting."""
    if config.file.outbox is None:
        return None
    from hexa_worker.outbox.errors import OutboxError, OutboxUnavailable  # noqa: PLC0415 - lazy by design
    from hexa_worker.outbox.opening import make_store  # noqa: PLC0415 - lazy by design

    store = make_store(config)
    try:
        store.open()
        lacking = store.lacking()
        if lacking:
            return f"WARNING: a relay lacks {', '.join(lacking)}"
        status = store.status(time.time_ns() // 1_000_000)
    except (OutboxError, OutboxUnavailable) as error:
        return f"WARNING: {error}"
    finally:
        store.close()
    return f"version {status.version}, {status.pending} events pending, {status.parked} parked"


async def _look_at_claims(config: "Config") -> list[str]:
    """What a Redis that keeps the claims would do wrong later. Other stores have no settings of their own."""
    if config.file.dedup.store != "redis":
        return []
    import anyio  # noqa: PLC0415 - lazy by design

    from hexa_worker.dedup.redis import RedisClaims  # noqa: PLC0415 - lazy by design

    claims = RedisClaims(config.file.dedup, config.folder)
    try:
        return await claims.preflight()
    finally:
        with anyio.CancelScope(shield=True):
            await claims.close()


def plain_broker(found: Look) -> dict[str, Any]:
    """The broker, as JSON says it."""
    return {"driver": found.driver, **{name.replace(" ", "_"): value for name, value in found.facts.items()}}


def plain_findings(found: Look, action: str) -> list[dict[str, Any]]:
    """What was found of a subscription, as JSON says it."""
    return [structs.asdict(one) for one in found.findings[action]]


def draw(found: Look) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - lazy by design
    from rich.table import Table  # noqa: PLC0415 - lazy by design

    facts = {"broker": found.driver, **found.facts}
    width = max(map(len, facts))
    for name, value in facts.items():
        write(f"{name:<{width}}  {clean(value)}")
    for warning in found.claims:
        write(f"{'claims':<{width}}  WARNING: {clean(warning)}")
    if found.outbox is not None:
        write(f"{'outbox':<{width}}  {clean(found.outbox)}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    table.add_column("action", style="bold cyan", overflow="fold")
    table.add_column("needs")
    table.add_column("name", overflow="fold")
    table.add_column("found", overflow="fold")
    for action, findings in found.findings.items():
        for place, ((kind, words), alike) in enumerate(groupby(findings, lambda one: (one.kind, in_words(one)))):
            names = [one.name for one in alike]
            shown = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
            table.add_row("" if place else action, kind, clean(shown), clean(words))
    console().print(table)


def in_words(one: "Finding") -> str:
    """What was found of one thing, in a few words."""
    if one.problem:
        return f"PROBLEM: {one.problem}"
    there = {True: "there", False: "not yet: a worker makes it", None: "cannot be told"}[one.exists]
    words = [there, *([one.note] if one.note else [])]
    if one.rights:
        words.append(f"rights: {' '.join(one.rights)}")
    if one.warning:
        words.append(f"WARNING: {one.warning}")
    return ", ".join(words)
