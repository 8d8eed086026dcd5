"""The counters of all processes together; what dead processes did stays counted."""

from collections.abc import Iterable
from typing import NamedTuple

from hexa_worker.telemetry.report import Report
from hexa_worker.telemetry.stats import Counters


class Total(NamedTuple):
    """One subscription in all processes.

    Attributes:
        system: the driver's name.
        destination: see `hexa_worker.telemetry.report.SubscriptionReport`.
        counters: the sum.
    """

    system: str
    destination: str
    counters: Counters


class Totals:
    """Keeps what dead processes did."""

    def __init__(self) -> None:
        self._dead: dict[str, Total] = {}

    def on_exit(self, report: Report) -> None:
        """A process is gone; this was its last report."""
        self._dead = self.sums((report,))

    def sums(self, living: Iterable[Report] = ()) -> dict[str, Total]:
        """Totals by action, of the dead and of `living`."""
        sums = dict(self._dead)
        for report in living:
            for one in report.subscriptions:
                before = sums.get(one.action)
                counters = one.counters if before is None else before.counters.plus(one.counters)
                sums[one.action] = Total(report.system, one.destination, counters)
        return sums


def summary(action: str, counters: Counters) -> str:
    """What one subscription did, for people."""
    parts = [
        f"{action}: handled {counters.acked + counters.dropped}",
        f"retried {counters.retried}",
        f"dead letters {counters.dead_lettered}",
    ]
    if counters.snoozed:
        parts.append(f"snoozed {counters.snoozed}")
    if counters.dropped:
        parts.append(f"dropped {counters.dropped}")
    if counters.duplicates:
        parts.append(f"duplicates {counters.duplicates}")
    if counters.expired:
        parts.append(f"expired {counters.expired}")
    if counters.released:
        parts.append(f"released {counters.released}")
    return ", ".join(parts)
