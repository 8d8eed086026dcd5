"""hexa-worker: an actor-style worker runtime for event-driven services."""

from typing import TYPE_CHECKING, Any

from hexa_worker.core.outcome import Ack, DeadLetter, Drop, Duplicate, Retry
from hexa_worker.core.propagated import User
from hexa_worker.errors import (
    ConfigError,
    DecodeError,
    DriverError,
    DriverRejected,
    DriverUnavailable,
    HexaWorkerError,
)
from hexa_worker.subscriptions.api import (
    AnyContext,
    BatchContext,
    BatchResult,
    Context,
    Event,
    Middleware,
    Next,
    Result,
    Retries,
    lifespan,
    subscribe,
)

if TYPE_CHECKING:
    from hexa_worker.emitting.emitter import Emitter
    from hexa_worker.emitting.threaded import SyncEmitter

__all__ = [
    "Ack",
    "AnyContext",
    "BatchContext",
    "BatchResult",
    "ConfigError",
    "Context",
    "DeadLetter",
    "DecodeError",
    "DriverError",
    "DriverRejected",
    "DriverUnavailable",
    "Drop",
    "Duplicate",
    "Emitter",
    "Event",
    "HexaWorkerError",
    "Middleware",
    "Next",
    "Result",
    "Retries",
    "Retry",
    "SyncEmitter",
    "User",
    "lifespan",
    "subscribe",
]


def __getattr__(name: str) -> Any:
    """`Emitter` and `SyncEmitter` know drivers and configuration: imported where they are used, not in workers."""
    if name == "Emitter":
        from hexa_worker.emitting.emitter import Emitter  # noqa: PLC0415 - see above

        return Emitter
    if name == "SyncEmitter":
        from hexa_worker.emitting.threaded import SyncEmitter  # noqa: PLC0415 - see above

        return SyncEmitter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
