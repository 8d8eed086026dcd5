"""The handlers of the chaos run: good, failing, slow, poisoned, ordered, and one that kills its process.

What an event asks for is in its payload, so that every redelivery of it behaves the same.
"""

import os
import signal
from typing import Literal

import anyio
import msgspec

from hexa_worker import Context, DeadLetter, Retry, Snooze, subscribe
from hexa_worker.testing.ledger import process_ledger


class Job(msgspec.Struct):
    """One event.

    Attributes:
        number: which.
        does: what its handlers do with it.
    """

    number: int
    does: Literal["ok", "fail-once", "fail", "slow", "hopeless", "later", "snooze", "kill"]


async def _do(job: Job, ctx: Context) -> None:
    match job.does:
        case "fail-once" if ctx.attempt == 0:
            raise ValueError("once")
        case "fail":
            raise ValueError("always")
        case "slow":
            await anyio.sleep(0.05)
        case "hopeless":
            raise DeadLetter("hopeless")
        case "later" if ctx.attempt == 0:
            raise Retry(after=0.2)
        case "snooze" if ctx.snoozes < 2:
            raise Snooze(0.3)
        case "kill":
            process_ledger().dying()
            os.kill(os.getpid(), signal.SIGKILL)


@subscribe("jobs", action="work")
async def work(job: Job, ctx: Context) -> None:
    """Do it, in any order."""
    await _do(job, ctx)


@subscribe("jobs", action="ordered", order_by="key")
async def ordered(job: Job, ctx: Context) -> None:
    """Keep each key's order; nothing that kills or fails, a retry leaves the order on purpose."""
    if job.does == "slow":
        await anyio.sleep(0.005)


@subscribe("jobs", action="steady", order_by="key")
async def steady(job: Job, ctx: Context) -> None:
    """Keep each key's order whatever fails: retries wait in their place; nothing that kills, it would kill too late."""
    if job.does != "kill":
        await _do(job, ctx)


@subscribe("jobs", action="spread")
async def spread(job: Job, ctx: Context) -> None:
    """Emit a child event now and then."""
    if job.number % 10 == 0 and job.does == "ok":
        await ctx.emit(os.environ.get("HEXA_CHAOS_CHILDREN", "children"), {"number": job.number, "does": "ok"})
