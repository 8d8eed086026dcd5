"""The suite itself: claims, which of them a driver must keep, and running them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from hexa_worker.drivers.base import Capabilities
from hexa_worker.testing.conformance.context import ConformanceContext, DriverUnderTest

Hook = Literal["kill", "stall", "away", "clocked"]
Needs = Callable[[Capabilities], bool]
Check = Callable[[ConformanceContext], Awaitable[None]]

CLOSE_S = 30.0
REGISTRY: "dict[str, _Entry]" = {}


@dataclass(frozen=True)
class _Entry:
    check: Check
    needs: Needs | None
    needs_text: str
    hooks: tuple[Hook, ...]


def claim(*hooks: Hook, needs: Needs | None = None, needs_text: str = "") -> Callable[[Check], Check]:
    """Add a check to the suite; its function name is the claim.

    Args:
        hooks: what must be possible to do to the driver or broker.
        needs: what the capabilities must allow.
        needs_text: the same in words, for the report.
    """

    def add(check: Check) -> Check:
        REGISTRY[check.__name__] = _Entry(check, needs, needs_text, hooks)
        return check

    return add


@dataclass(frozen=True)
class ConformanceCheck:
    """One claim about one driver. Await a call of it to check it.

    Attributes:
        name: the claim, as a sentence with underscores.
        skip: why it does not apply to this driver; None: it does.
    """

    name: str
    skip: str | None
    under_test: DriverUnderTest[Any]

    async def __call__(self) -> None:
        """Check it on a fresh (or shared) broker, within the deadline.

        Raises:
            AssertionError: the driver does not keep it.
            HexaWorkerError: the driver raised this where the claim expects none.
        """
        entry = REGISTRY[self.name]
        failure: BaseException | None = None
        async with self.under_test.broker() as broker, anyio.create_task_group() as tasks:
            bench = ConformanceContext(self.under_test, broker, tasks)
            try:
                await _bounded(entry.check(bench), self.under_test.deadline_s, "the claim")
            except Exception as error:  # noqa: BLE001 - raised below, outside of the task group's wrapping
                failure = error
            try:
                await _bounded(bench.close(), CLOSE_S, "closing the drivers")
            except Exception as error:  # noqa: BLE001 - as above; the first failure says more
                failure = failure or error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _bounded(check: Awaitable[None], deadline_s: float, what: str) -> None:
    with anyio.move_on_after(deadline_s) as scope:
        await check
    if scope.cancelled_caught:
        raise AssertionError(f"{what} was not done within {deadline_s:g} s")


def claims(under_test: DriverUnderTest[Any]) -> Sequence[ConformanceCheck]:
    """Every claim of the suite about one driver, those that do not apply marked with `ConformanceCheck.skip`."""
    return [ConformanceCheck(name, _skip(entry, under_test), under_test) for name, entry in REGISTRY.items()]


def _skip(entry: _Entry, under_test: DriverUnderTest[Any]) -> str | None:
    if entry.needs is not None and not entry.needs(under_test.capabilities):
        return f"the driver does not promise {entry.needs_text}"
    missing = [hook for hook in entry.hooks if getattr(under_test, hook) is None]
    return f"no hook {missing[0]!r}" if missing else None


@dataclass(frozen=True)
class DriverReport:
    """What `check_driver` found, when it found nothing wrong.

    Attributes:
        kept: names of the claims that hold.
        skipped: names of those that do not apply, with the reason.
    """

    kept: tuple[str, ...]
    skipped: dict[str, str]


async def check_driver(under_test: DriverUnderTest[Any]) -> DriverReport:
    """Check every claim of the suite about a driver, one after the other, on the running event loop.

    Raises:
        ExceptionGroup: one exception for each claim that does not hold; a note on it names the claim.

    Cancellation: the claim under way is abandoned, its drivers are closed.
    """
    kept: list[str] = []
    skipped: dict[str, str] = {}
    broken: list[Exception] = []
    for one in claims(under_test):
        if one.skip is not None:
            skipped[one.name] = one.skip
            continue
        try:
            await one()
        except Exception as error:  # noqa: BLE001 - gathered and raised together
            error.add_note(f"claim: {one.name}")
            broken.append(error)
        else:
            kept.append(one.name)
    if broken:
        names = ", ".join(note.removeprefix("claim: ") for error in broken for note in error.__notes__[-1:])
        raise ExceptionGroup(f"driver {under_test.name!r} breaks {len(broken)} claims: {names}", broken)
    return DriverReport(tuple(kept), skipped)
