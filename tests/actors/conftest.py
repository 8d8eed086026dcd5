"""A small stage for the actors: real actors on the memory driver, one subscription per handler."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest

from hexa_worker.codecs.decode import DECODE_ERRORS
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.subscriptions.plan import Handler, Plan
from hexa_worker.testing.virtual import Backend

BACKENDS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param  # type: ignore[no-any-return]


def plan_of(function: Callable[..., Any], action: str = "act", **settings: Any) -> Plan:
    """A plan around a handler of JSON payloads."""
    handler = Handler(
        function=function,
        where="here",
        style=settings.pop("style", "async"),
        takes_context=True,
        batch="batch" in settings,
        payload_type="Any",
        decode=settings.pop("decode", msgspec.json.Decoder().decode),
        decode_errors=DECODE_ERRORS,
    )
    defaults: dict[str, Any] = {
        "middlewares": (),
        "channels": ("events",),
        "pattern": None,
        "group": action,
        "retry_base": action,
        "start": "earliest",
        "concurrency": 4,
        "mailbox": 100,
        "mailbox_bytes": 1 << 20,
        "order_by": OrderBy.NONE,
        "timeout_s": 5.0,
        "batch": 1,
        "batch_wait_s": 0.01,
        "threads": 4,
        "retry": RetryPolicy(initial_interval_s=0.0, maximum_retries=2),
    }
    return Plan(action=action, handler=handler, **{**defaults, **settings})


def module_of(*handlers: Callable[..., Any]) -> ModuleType:
    """A module that holds marked handlers."""
    module = ModuleType("handlers")
    vars(module).update({f"handler_{number}": handler for number, handler in enumerate(handlers)})
    return module


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """`until_idle` looks often: these tests wait for it hundreds of times."""
    monkeypatch.setattr("hexa_worker.app.IDLE_POLL_S", 0.005)
