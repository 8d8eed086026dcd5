"""A driver whose records have another form in the broker than in the runtime.

Stands around any driver; without a form of its own a broker needs none of this. What is published, and the retry and
dead-letter records of settlements, leave in their channel's form; what is received or browsed arrives in ours.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hexa_worker.core.channels import parse
from hexa_worker.core.message import Delivery, Message
from hexa_worker.core.settlement import DeadLettered, RetryAt, Settlement
from hexa_worker.drivers.base import (
    Driver,
    Revoked,
    Source,
    SubscriptionSpec,
    Unsettled,
    nothing_revoked,
)
from hexa_worker.drivers.kit.forwarding import ForwardingDriver, ForwardingSource
from hexa_worker.errors import DriverError
from hexa_worker.record_formats.convert import from_wire, to_wire
from hexa_worker.record_formats.form import Form


class ChannelFormats:
    """Which form each channel has.

    A channel that a subscription of ours reads has that subscription's form, and so have its retry channels and
    its dead letter; every other channel has the broker's.

    Args:
        default: the broker's form.
        channels: forms of channels.
        ladders: forms of retry bases.
    """

    def __init__(
        self, default: Form, channels: Mapping[str, Form] | None = None, ladders: Mapping[str, Form] | None = None
    ) -> None:
        self.default = default
        self._channels = dict(channels or {})
        self._ladders = dict(ladders or {})

    def of(self, channel: str) -> Form:
        form = self._channels.get(channel)
        if form is not None:
            return form
        rung = parse(channel) if self._ladders else None
        return self.default if rung is None else self._ladders.get(rung.base, self.default)

    def of_spec(self, spec: SubscriptionSpec) -> Form:
        return msgspec.structs.replace(self.default, wire=spec.wire or self.default.wire, group=spec.group)

    def learn(self, specs: Iterable[SubscriptionSpec]) -> None:
        """Note the channels of subscriptions."""
        for spec in specs:
            form = self.of_spec(spec)
            self._ladders[spec.retry_base] = form
            for channel in spec.channels:
                self._channels[channel] = form


class FormattingDriver(ForwardingDriver):
    """See the module.

    Args:
        driver: talks to the broker.
        forms: what records look like there.
    """

    def __init__(self, driver: Driver, forms: ChannelFormats) -> None:
        self._driver = driver
        self._forms = forms

    @property
    def inner(self) -> Driver:
        """The driver itself."""
        return self._driver

    async def publish(self, messages: Sequence[Message]) -> Sequence[str | DriverError]:
        """As the driver's, each message in its channel's form."""
        of = self._forms.of
        return await self._driver.publish([to_wire(message, of(message.channel)) for message in messages])

    async def declare(self, specs: Sequence[SubscriptionSpec]) -> None:
        self._forms.learn(specs)
        await self._driver.declare(specs)

    async def subscribe(self, spec: SubscriptionSpec, revoked: Revoked = nothing_revoked) -> Source:
        """As the driver's; deliveries arrive in the runtime's form."""
        self._forms.learn((spec,))
        source = await self._driver.subscribe(spec, revoked)
        form = self._forms.of_spec(spec)
        return source if form.wire == "plain" else FormattingSource(source, form)

    async def browse(self, channel: str, after: int, limit: int, since_ms: int = 0) -> Sequence[Delivery]:
        """As the driver's, in the runtime's form."""
        form = self._forms.of(channel)
        ladder = parse(channel) is not None
        return [
            from_wire(one, form, ladder=ladder) for one in await self._driver.browse(channel, after, limit, since_ms)
        ]


class FormattingSource(ForwardingSource):
    """One subscription's deliveries in the runtime's form.

    Args:
        source: reads them as they lie in the broker.
        form: what they look like there.
    """

    def __init__(self, source: Source, form: Form) -> None:
        super().__init__(source)
        self._form = form

    async def receive(self, max_count: int, max_bytes: int) -> list[Delivery]:
        form = self._form
        return [
            from_wire(one, form, ladder=one.attempt > 0 and parse(one.channel) is not None)
            for one in await self._source.receive(max_count, max_bytes)
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """As the source's, retry and dead-letter records in their form. What comes back is what was given."""
        written = [self._written(one) for one in settlements]
        unsettled = await self._source.settle(written)
        if not unsettled:
            return unsettled
        given = {id(after): before for after, before in zip(written, settlements, strict=True)}
        return [Unsettled(given.get(id(one.settlement), one.settlement), one.error) for one in unsettled]

    def _written(self, settlement: Settlement) -> Settlement:
        if isinstance(settlement, RetryAt | DeadLettered):
            return msgspec.structs.replace(settlement, record=to_wire(settlement.record, self._form))
        return settlement
