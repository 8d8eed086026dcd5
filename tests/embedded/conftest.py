from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hexa_worker.config.model import Embedded
from hexa_worker.drivers.embedded import EmbeddedDriver


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "hexa.db"


@pytest.fixture
async def driver(path: Path) -> AsyncIterator[EmbeddedDriver]:
    made = EmbeddedDriver(path, Embedded(lease_s=1.0, busy_timeout_s=1.0))
    await made.open()
    yield made
    await made.close()
