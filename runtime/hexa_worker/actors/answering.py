"""Answers: a value that a handler returns is emitted to the event's reply channel, before its delivery is acknowledged.

An answer is a child event of what it answers. It is emitted within the handler's time, and a failure to emit it is the
handler's failure.
"""

from typing import Any

from hexa_worker.actors.invoke import Call, build_call
from hexa_worker.actors.results import VERDICTS, per_item, read_result
from hexa_worker.subscriptions.api import Middleware
from hexa_worker.subscriptions.context import AnyContext, Context
from hexa_worker.subscriptions.plan import Plan


def build_answering(plan: Plan, middlewares: tuple[Middleware, ...]) -> Call:
    """The call that a lane awaits: the handler and its middlewares, whose result is None where it was an answer.

    A handler that returns no value, as its annotation says, costs nothing more.
    """
    call, reply_to = build_call(plan.handler, middlewares, plan.threads), plan.reply_to
    if not plan.handler.returns_value:
        return call

    async def answer(context: Context[Any], result: Any) -> Any:
        channel = context.reply_to or reply_to
        if result is None or channel is None or read_result(result) is not None:
            return result
        await context.emit(channel, result, key=context.delivery.key)
        return None

    async def call_one(payload: Any, context: AnyContext[Any]) -> Any:
        result = await call(payload, context)
        return result if result is None else await answer(context.items[0], result)

    async def call_batch(payloads: Any, context: AnyContext[Any]) -> Any:
        results = await call(payloads, context)
        if results is None or isinstance(results, VERDICTS):
            return results
        items = context.items
        return [await answer(item, one) for item, one in zip(items, per_item(results, len(items)), strict=True)]

    return call_batch if plan.handler.batch else call_one
