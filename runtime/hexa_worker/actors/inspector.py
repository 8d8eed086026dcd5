"""What a driver finds wrong around subscriptions that run: one warning each, once, soon after the start.

A worker starts with all of it. What a driver finds is the same in every process, so one process of a worker looks.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from hexa_worker.drivers.base import Driver, Finding, SubscriptionSpec
from hexa_worker.errors import DriverRejected, DriverUnavailable
from hexa_worker.telemetry.log import FIELDS

LIMIT_S: Final = 2.0
"""Looking takes no longer than this, all subscriptions together: a worker has better things to do."""
ADVICE: Final = "`hexa-worker check --connect` looks at all of them"

log = logging.getLogger("hexa_worker.broker")


async def warn(driver: Driver, specs: Sequence[SubscriptionSpec], ready: Callable[[], Awaitable[None]]) -> None:
    """Say what `Driver.preflight` finds; for a task of its own beside the workers.

    Args:
        driver: an open driver.
        specs: the subscriptions.
        ready: waits until they run.
    """
    await ready()
    said: set[tuple[str, str, str]] = set()
    looked = 0
    with anyio.move_on_after(LIMIT_S):
        for spec in specs:
            try:
                findings = await driver.preflight(spec)
            except DriverUnavailable:
                return  # its worker says so
            except DriverRejected as error:
                log.info("not told by the broker: %s", error, extra={FIELDS: {"action": spec.action}})
                findings = ()
            looked += 1
            for one in findings:
                _say(spec.action, one, said)
    if looked < len(specs):
        log.info("%d of %d subscriptions were looked at in %g s, %s", looked, len(specs), LIMIT_S, ADVICE)


def _say(action: str, one: Finding, said: set[tuple[str, str, str]]) -> None:
    for text in filter(None, (one.problem, one.warning)):
        if (one.kind, one.name, text) not in said:
            said.add((one.kind, one.name, text))
            log.warning("%s %s: %s", one.kind, one.name, text, extra={FIELDS: {"action": action}})
