"""The rule that no event may be lost by: a retry or dead letter is durable before its original is acknowledged."""

from collections.abc import Awaitable, Callable, Sequence

from hexa_worker.core.settlement import DeadLettered, RetryAt
from hexa_worker.drivers.base import Unsettled
from hexa_worker.errors import DriverError

WithRecord = RetryAt | DeadLettered
"""A settlement that takes effect by a record."""


async def store_records(
    settlements: Sequence[WithRecord],
    publish: Callable[[Sequence[WithRecord]], Awaitable[Sequence[str | DriverError]]],
) -> tuple[list[WithRecord], list[Unsettled]]:
    """Store the records of settlements.

    Args:
        settlements: all of those that have a record which is not durable yet. Without any, do not call.
        publish: stores their records; for each its id once it is durable, or why it is not, in the same order.

    Returns:
        Those whose originals may be acknowledged now, because their records are durable; and the others.

    Raises:
        DriverUnavailable: as `publish` does. No original may be acknowledged.

    Cancellation: as `publish`. No original may be acknowledged; records may have been stored.
    """
    durable: list[WithRecord] = []
    unsettled: list[Unsettled] = []
    for settlement, answer in zip(settlements, await publish(settlements), strict=True):
        if isinstance(answer, str):
            durable.append(settlement)
        else:
            unsettled.append(Unsettled(settlement, answer))
    return durable, unsettled
