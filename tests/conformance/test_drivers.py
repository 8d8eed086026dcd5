"""The public conformance suite, run against every driver of this project on every event loop."""

from typing import Any

import anyio
import pytest

from hexa_worker.testing import ConformanceCheck, claims
from tests.conformance.under_test import DRIVERS

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


def keep(one: ConformanceCheck, backend: str) -> None:
    """Run a claim on an event loop."""
    if one.skip is not None:
        pytest.skip(one.skip)
    name, options = BACKENDS[backend]
    anyio.run(one, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "one", [pytest.param(one, id=f"{driver.name}-{one.name}") for driver in DRIVERS for one in claims(driver)]
)
def test_the_driver_keeps_its_promise(one: ConformanceCheck, backend: str) -> None:
    keep(one, backend)
