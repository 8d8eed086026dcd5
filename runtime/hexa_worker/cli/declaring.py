"""Emitting to what the project itself subscribes to, before its worker has ever run.

Emitting imports no handler modules. Only where the broker keeps nothing for a channel are they asked who reads it:
what their subscription needs is made then, and the event is kept for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hexa_worker.errors import ConfigError, DriverError, UnknownChannel

if TYPE_CHECKING:
    from hexa_worker.config.model import Config
    from hexa_worker.core.message import Message
    from hexa_worker.drivers.base import Driver, SubscriptionSpec


class Declaring:
    """Publishes through a driver.

    Args:
        driver: an open driver.
        config: the project's worker.toml.
    """

    def __init__(self, driver: "Driver", config: "Config") -> None:
        self._driver = driver
        self._config = config
        self._known: tuple[SubscriptionSpec, ...] | None = None

    async def publish(self, messages: "Sequence[Message]") -> Sequence[str | DriverError]:
        answers = list(await self._driver.publish(messages))
        unknown = [place for place, answer in enumerate(answers) if isinstance(answer, UnknownChannel)]
        if unknown and await self._declare({messages[place].channel for place in unknown}):
            again = await self._driver.publish([messages[place] for place in unknown])
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        return answers

    async def _declare(self, channels: set[str]) -> bool:
        """Make what subscriptions to these channels need; whether there was something to make."""
        from hexa_worker.drivers.opening import declare  # noqa: PLC0415 - lazy by design

        wanted = [one for one in self._specs() if any(one.reads(channel) for channel in channels)]
        if wanted:
            await declare(self._driver, wanted)
        return bool(wanted)

    def _specs(self) -> "tuple[SubscriptionSpec, ...]":
        if self._known is None:
            from hexa_worker.drivers.opening import specs  # noqa: PLC0415 - lazy by design
            from hexa_worker.subscriptions.loader import load_plans  # noqa: PLC0415 - lazy by design

            try:
                self._known = specs(load_plans(self._config))
            except ConfigError:
                self._known = ()  # the emit stays refused, and `check` tells of the handlers
        return self._known
