"""Drivers that do not keep events for later say so."""

from collections.abc import Awaitable, Callable, Sequence

from hexa_worker.core.channels import parse
from hexa_worker.core.message import Message
from hexa_worker.errors import DriverError, DriverRejected

Answers = Sequence[str | DriverError]


async def refusing_later(
    driver: str, messages: Sequence[Message], publish: Callable[[Sequence[Message]], Awaitable[Answers]]
) -> Answers:
    """As `publish` answers; an event for later is refused, for it would come at once."""
    refused = {place for place, one in enumerate(messages) if one.due_ms and parse(one.channel) is None}
    if not refused:
        return await publish(messages)
    error = DriverRejected(f"{driver}: events for later (after, at) are not kept by this driver")
    taken = [one for place, one in enumerate(messages) if place not in refused]
    answers = iter(await publish(taken) if taken else ())
    return [error if place in refused else next(answers) for place in range(len(messages))]
