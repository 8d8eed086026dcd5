"""A broker of this test run behind a proxy, as the conformance suite sees it: what every such broker has."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from tests.lab.base import Broker
from tests.lab.proxy import Proxy


class Proxied:
    """A broker of this test run, behind a proxy of this claim's own; subclasses make drivers.

    Attributes:
        node: the broker, given to the subclass by the test; None: not now.
        here: the same, of this claim.
        proxy: in front of it.
    """

    node: Broker | None = None

    def __init__(self, here: Broker, proxy: Proxy) -> None:
        self.here = here
        self.proxy = proxy

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Self]:
        """One for one claim."""
        assert cls.node is not None
        with cls.node.open_proxy() as proxy:
            yield cls(cls.node, proxy)

    async def away(self) -> None:
        """Let nobody connect, and let nothing through."""
        self.proxy.refuse()

    async def back(self) -> None:
        """As before."""
        self.proxy.heal()
