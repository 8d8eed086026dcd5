"""How the whole worker stands, as a value: what the status pages show and what an operator's signal logs."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from hexa_worker.core.lifecycle import READY, WorkerState
from hexa_worker.core.scrubbing import scrub
from hexa_worker.processes.slot import Slot, SlotPhase
from hexa_worker.processes.status.totals import Total, Totals
from hexa_worker.telemetry.report import Report

STANDS_S: Final = 10.0
"""A parent that has looked after nobody for so long may not know how its children are,"""
DEAD_S: Final = 60.0
"""and after so long it will not look after them again."""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One slot."""

    slot: int
    pid: int
    phase: SlotPhase
    ready: bool
    retiring: bool
    restarts: int
    report: Report


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Everything.

    Attributes:
        name: the worker's name.
        processes: all slots that are not empty for good; without one that was never ready and is to replace another.
        totals: by action.
        suspects: how many deliveries are suspected of killing processes.
        stopping: it was asked to stop.
        standing_s: for how long the parent has looked after nobody.
    """

    name: str
    processes: tuple[Process, ...]
    totals: dict[str, Total]
    suspects: int
    stopping: bool
    standing_s: float

    @property
    def alive(self) -> bool:
        """Nothing was given up, and the parent looks after it."""
        return self.standing_s < DEAD_S and all(status["alive"] for status in self.statuses())

    @property
    def ready(self) -> bool:
        """Every process that is here to stay is up, every subscription of each consumes."""
        staying = [one for one in self.processes if not one.retiring]
        return bool(staying) and not self.stopping and self.standing_s < STANDS_S and all(one.ready for one in staying)

    def statuses(self) -> list[dict[str, Any]]:
        """One entry per process and one per subscription in it, as hexa-event shows them."""
        entries: list[dict[str, Any]] = []
        for process in self.processes:
            place = f"process={process.slot}"
            tags = [place, f"phase={process.phase.name.lower()}", f"pid={process.pid}", f"restarts={process.restarts}"]
            entries.append(
                _entry(
                    f"process-{process.slot}",
                    alive=process.phase is not SlotPhase.FAILED,
                    ready=process.ready,
                    tags=tags,
                )
            )
            for one in process.report.subscriptions:
                tags = [place, f"state={one.state.name.lower()}"]
                if one.paused:
                    tags.append("paused")
                if one.paused_keys:
                    tags.append(f"paused_keys={one.paused_keys}")
                if one.counters.on_hold:
                    tags.append(f"on_hold={one.counters.on_hold}")
                if one.counters.parked:
                    tags.append(f"parked={one.counters.parked}")
                if one.error and one.state not in READY:
                    tags.append(f"error={scrub(one.error)}")
                entries.append(
                    _entry(one.action, alive=one.state is not WorkerState.FAILED, ready=one.state in READY, tags=tags)
                )
            outbox = process.report.outbox
            if outbox is not None:
                tags = [place, f"state={outbox.state}", f"pending={outbox.pending}", f"parked={outbox.parked}"]
                entries.append(_entry("outbox", alive=True, ready=outbox.state != "away", tags=tags))
        return entries

    def status(self) -> dict[str, Any]:
        """The body of ``/status``, in hexa-event's shape."""
        return {
            "code": "app.status",
            "data": {"alive": self.alive, "ready": self.ready, "statuses": self.statuses()},
        }


def _entry(name: str, *, alive: bool, ready: bool, tags: list[str]) -> dict[str, Any]:
    return {"id": name, "alive": alive, "ready": ready, "tags": tags}


def overview(  # noqa: PLR0913 - what it is made of
    name: str, slots: Iterable[Slot], totals: Totals, suspects: int, stop_level: int, standing_s: float
) -> Overview:
    processes = tuple(
        Process(
            slot=slot.number,
            pid=slot.pid,
            phase=slot.phase,
            ready=slot.ready,
            retiring=slot.retiring,
            restarts=max(slot.restarts, 0),
            report=slot.report,
        )
        for slot in slots
        if slot.phase is not SlotPhase.ENDED and not slot.candidate
    )
    return Overview(
        name=name,
        processes=processes,
        totals=totals.sums(one.report for one in processes),
        suspects=suspects,
        stopping=stop_level > 0,
        standing_s=standing_s,
    )
