"""hexa-worker: an actor-style worker runtime for event-driven services."""

from hexa_worker.core.outcome import Ack, DeadLetter, Drop, Retry
from hexa_worker.errors import (
    ConfigError,
    DecodeError,
    DriverError,
    DriverRejected,
    DriverUnavailable,
    HexaWorkerError,
)
from hexa_worker.handlers.api import (
    BatchContext,
    BatchResult,
    Context,
    Event,
    Middleware,
    Next,
    Result,
    lifespan,
    subscribe,
)

__all__ = [
    "Ack",
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
    "Event",
    "HexaWorkerError",
    "Middleware",
    "Next",
    "Result",
    "Retry",
    "lifespan",
    "subscribe",
]
