"""Handlers whose annotations are text: this module imports annotations from the future."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hexa_worker import BatchContext, Context

if TYPE_CHECKING:
    from nowhere import Ghost  # type: ignore[import-not-found]  # as it happens to users

    import hexa_worker as hw


class Order(msgspec.Struct):
    id: int


async def plain(order: Order, ctx: Context[int]) -> None: ...
async def optional(order: Order | None, ctx: Context) -> None: ...
async def batch(orders: list[Order], ctx: BatchContext[None]) -> None: ...
async def context_for_the_checker_only(order: Order, ctx: hw.Context[int]) -> None: ...
async def ghost(order: Ghost, ctx: Context) -> None: ...
async def ghost_return(order: Order) -> Ghost: ...
async def strange_context(order: Order, ctx: Ghost) -> None: ...
