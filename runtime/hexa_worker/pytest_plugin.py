"""The pytest fixtures of hexa-worker, loaded by its entry point: `hexa_worker_harness`, `hexa_worker_options`.

Every pytest run of an environment with hexa-worker imports this module, so nothing heavy is imported before a test
asks for the fixture.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hexa_worker.testing import Harness


@pytest.fixture
def hexa_worker_options() -> dict[str, Any]:
    """What `hexa_worker_harness` is made with: override it in a test module or a conftest.py.

    The keyword arguments of `Harness` (with ``handlers``) or of `Harness.from_config` (with ``path`` or neither).
    """
    return {}


@pytest.fixture
def hexa_worker_harness(hexa_worker_options: dict[str, Any], pytestconfig: pytest.Config) -> "Iterator[Harness]":
    """A `Harness` for one test.

    Of the handlers or the worker.toml that `hexa_worker_options` names; otherwise of the worker.toml that
    ``HEXA_WORKER_CONFIG`` names, otherwise of the one in pytest's root folder.
    """
    from hexa_worker.testing import Harness  # noqa: PLC0415 - see the module

    if "handlers" in hexa_worker_options:
        harness = Harness(**hexa_worker_options)
    else:
        found = Path(os.environ.get("HEXA_WORKER_CONFIG") or pytestconfig.rootpath / "worker.toml")
        harness = Harness.from_config(**{"path": found, **hexa_worker_options})
    with harness:
        yield harness
