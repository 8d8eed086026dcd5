"""The handler of the double-run audit: each effect is a line in a file, with its fence and its process."""

import os
from pathlib import Path

import anyio

from hexa_worker import Context, subscribe

EFFECTS = "EFFECTS_FILE"


@subscribe("jobs", action="work")
async def work(number: int, ctx: Context) -> None:
    """Have an effect; fail once before it, now and then."""
    if number % 10 == 0 and ctx.attempt == 0:
        raise ValueError("once")
    await anyio.sleep(0.002)
    _note(number, ctx.fence)


def _note(number: int, fence: int | None) -> None:
    with Path(os.environ[EFFECTS]).open("ab", buffering=0) as file:
        file.write(f"{number} {fence or 0} {os.getpid()}\n".encode())
