"""Billing: a plain function that fails now and then, and a batch handler."""

from handlers.shop import Books, OrderChecked
from hexa_worker import BatchContext, Context, subscribe


class GatewayDown(Exception):
    """The payment gateway does not answer."""


@subscribe("orders.checked", action="charge", threads=4)
def charge(order: OrderChecked, ctx: Context[Books]) -> None:
    """Charge an order. A plain function: it may block, it runs in a thread."""
    if order.customer == "grace" and ctx.attempt == 0:
        raise GatewayDown("connection refused")  # retried by the policy in worker.toml
    ctx.state.note({"charged": order.amount, "order": order.id, "root": ctx.root_id})


@subscribe("orders.checked", action="archive", batch=100, batch_wait_s=0.2)
async def archive(orders: list[OrderChecked], ctx: BatchContext[Books]) -> None:
    """Archive checked orders, many in one write."""
    ctx.state.note(*({"archived": order.id} for order in orders))
