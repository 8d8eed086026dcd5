"""The handlers of the double-run audit: each effect is a line in a file, with its fence and its process."""

import os
from functools import cache

import anyio
from anyio.lowlevel import checkpoint

from hexa_worker import Context, subscribe

EFFECTS = "EFFECTS_FILE"


@subscribe("jobs", action="work")
async def work(number: int, ctx: Context) -> None:
    """Have an effect; fail once before it, now and then."""
    if number % 10 == 0 and ctx.attempt == 0:
        raise ValueError("once")
    await anyio.sleep(0.002)
    _note(ctx)


@subscribe("jobs", action="count")
async def count(number: int, ctx: Context) -> None:
    """Have another effect of the same events: neither action may take the other's for its own."""
    await checkpoint()
    _note(ctx)


def _note(ctx: Context) -> None:
    line = f"{ctx.root_id} {ctx.action} {ctx.fence or 0} {os.getpid()}\n"
    os.write(_file(), line.encode())


@cache
def _file() -> int:
    return os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
