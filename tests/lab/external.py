"""A broker that somebody else runs, given by its address."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.lab.base import Broker
from tests.lab.errors import NotOurBrokerError
from tests.lab.proxy import Proxy


class External(Broker):
    """A running broker; it can be used, but not broken, proxied or wiped.

    Args:
        address: what clients connect to.
        admin_address: where it is administered.
    """

    ours: ClassVar[bool] = False

    def __init__(self, address: str, admin_address: str | None = None) -> None:
        self._address = address
        self._admin_address = admin_address or address
        super().__init__(Path("given"))

    @property
    def version(self) -> str:
        """Not known here; ask it through a client."""
        return "given"

    @property
    def address(self) -> str:
        """What clients connect to."""
        return self._address

    @property
    def admin_address(self) -> str:
        """Where it is administered."""
        return self._admin_address

    @property
    def running(self) -> bool:
        """Taken for granted."""
        return True

    @property
    def pid(self) -> int:
        """Refused."""
        raise self._refusal()

    @property
    def proxied_address(self) -> str:
        """Refused."""
        raise self._refusal()

    def __str__(self) -> str:
        """Its address."""
        return self._address

    def fetch(self) -> None:
        """Nothing to get."""

    def configure(self) -> None:
        """Nothing to say."""

    def command(self) -> Sequence[str]:
        """None."""
        return ()

    def ready(self) -> bool:
        """Taken for granted."""
        return True

    def start(self) -> None:
        """It runs."""

    def close(self) -> None:
        """It goes on running."""

    def stop(self) -> None:
        """Refused."""
        self._refuse()

    def kill(self) -> None:
        """Refused."""
        self._refuse()

    def freeze(self) -> None:
        """Refused."""
        self._refuse()

    def thaw(self) -> None:
        """Refused."""
        self._refuse()

    def wipe(self) -> None:
        """Refused."""
        self._refuse()

    def open_proxy(self) -> Proxy:
        """Refused: it advertises its own address, so clients would not stay behind a proxy."""
        raise self._refusal()

    def _refuse(self) -> None:
        raise self._refusal()

    def _refusal(self) -> NotOurBrokerError:
        return NotOurBrokerError(f"{self._address} was given, so it is not ours to break")


def given_broker(name: str, environment: Mapping[str, str]) -> External | None:
    """The broker whose address is in ``HEXA_TEST_<NAME>`` (and ``HEXA_TEST_<NAME>_ADMIN``), if it is."""
    variable = f"HEXA_TEST_{name.upper().replace('-', '_')}"
    address = environment.get(variable)
    return External(address, environment.get(f"{variable}_ADMIN")) if address else None
