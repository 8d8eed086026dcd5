"""Orders: one event fans out to two actions; one of them emits a child event."""

from handlers.shop import Books, OrderChecked, OrderCreated
from hexa_worker import Context, DeadLetter, Retry, subscribe

LARGE = 10_000


@subscribe("orders.created", action="check-order", order_by="key", concurrency=8)
async def check_order(order: OrderCreated, ctx: Context[Books]) -> None:
    """Check an order and announce that it may be charged."""
    if order.amount < 0:
        raise DeadLetter("negative amount")  # nothing mends it: no retry
    if order.amount > LARGE and ctx.attempt == 0:
        raise Retry(after=1, reason="a large order waits for the fraud check")
    await ctx.emit("orders.checked", OrderChecked(order.id, order.customer, order.amount), key=order.customer)


@subscribe("orders.created", action="greet-customer")
async def greet_customer(order: OrderCreated, ctx: Context[Books]) -> None:
    """Thank the customer; independent of whether the order can be charged."""
    ctx.state.note({"greeted": order.customer, "order": order.id})
    ctx.logger.info("greeted the customer")
