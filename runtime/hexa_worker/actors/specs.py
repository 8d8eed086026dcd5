"""What a driver is told of a subscription."""

from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.subscriptions.plan import Plan


def spec_of(plan: Plan) -> SubscriptionSpec:
    """What a driver must know of a plan. One retry channel exists even without retries: redrives enter there."""
    retries = range(1, plan.retry.channels_count + 1) if plan.wire == "hexa" else ()
    return SubscriptionSpec(
        action=plan.action,
        group=plan.group,
        channels=plan.channels,
        pattern=plan.pattern,
        retry_base=plan.retry_base,
        retry_count=max(plan.retry.channels_count, 1),
        order_by=plan.order_by,
        start=plan.start,
        options=plan.options,
        wire=plan.wire,
        retry_delays_ms=tuple(round(plan.retry.delay_s(number) * 1000) for number in retries),
        mailbox_bytes=plan.mailbox_bytes,
        in_place=plan.in_place is not OrderBy.NONE,
    )
