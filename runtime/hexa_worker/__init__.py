"""hexa-worker: an actor-style worker runtime for event-driven services."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hexa_worker.core.lineage import Lineage
from hexa_worker.core.message import Delivery, Headers
from hexa_worker.core.outcome import Ack, DeadLetter, Drop, Duplicate, Retry, Snooze, Verdict
from hexa_worker.core.propagated import User
from hexa_worker.errors import (
    BrokerRejected,
    BrokerUnavailable,
    ConfigError,
    DecodeError,
    DriverError,
    DriverRejected,
    DriverUnavailable,
    HexaWorkerError,
    Unanswered,
    WorkerFailed,
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
from hexa_worker.subscriptions.schedules import Tick, cron, every

if TYPE_CHECKING:
    from hexa_worker.config.kafka import Kafka, KafkaSasl, KafkaTls
    from hexa_worker.config.model import Embedded, Memory
    from hexa_worker.config.nats import Nats, NatsStream, NatsTls
    from hexa_worker.config.pulsar import Pulsar, PulsarTls
    from hexa_worker.config.secret import Secret
    from hexa_worker.emitting.emitter import Emitter
    from hexa_worker.emitting.threaded import SyncEmitter
    from hexa_worker.serving import ServedWorker, run, serve_worker
    from hexa_worker.subscriptions.decisions import Decision, on_outcome
    from hexa_worker.subscriptions.resources import Resources
    from hexa_worker.subscriptions.scopes import Scope, scope
    from hexa_worker.telemetry.log_fields import DeliveryFilter, log_fields

__all__ = [
    "Ack",
    "AnyContext",
    "BatchContext",
    "BatchResult",
    "BrokerRejected",
    "BrokerUnavailable",
    "ConfigError",
    "Context",
    "DeadLetter",
    "Decision",
    "DecodeError",
    "Delivery",
    "DeliveryFilter",
    "DriverError",
    "DriverRejected",
    "DriverUnavailable",
    "Drop",
    "Duplicate",
    "Embedded",
    "Emitter",
    "Event",
    "Headers",
    "HexaWorkerError",
    "Kafka",
    "KafkaSasl",
    "KafkaTls",
    "Lineage",
    "Memory",
    "Middleware",
    "Nats",
    "NatsStream",
    "NatsTls",
    "Next",
    "Pulsar",
    "PulsarTls",
    "Resources",
    "Result",
    "Retries",
    "Retry",
    "Scope",
    "Secret",
    "ServedWorker",
    "Snooze",
    "SyncEmitter",
    "Tick",
    "Unanswered",
    "User",
    "Verdict",
    "WorkerFailed",
    "cron",
    "every",
    "lifespan",
    "log_fields",
    "on_outcome",
    "run",
    "scope",
    "serve_worker",
    "subscribe",
]

_LAZY = {
    "Decision": "subscriptions.decisions",
    "DeliveryFilter": "telemetry.log_fields",
    "Embedded": "config.model",
    "Emitter": "emitting.emitter",
    "Kafka": "config.kafka",
    "KafkaSasl": "config.kafka",
    "KafkaTls": "config.kafka",
    "Memory": "config.model",
    "Nats": "config.nats",
    "NatsStream": "config.nats",
    "NatsTls": "config.nats",
    "Pulsar": "config.pulsar",
    "PulsarTls": "config.pulsar",
    "Resources": "subscriptions.resources",
    "Scope": "subscriptions.scopes",
    "Secret": "config.secret",
    "ServedWorker": "serving",
    "SyncEmitter": "emitting.threaded",
    "log_fields": "telemetry.log_fields",
    "on_outcome": "subscriptions.decisions",
    "run": "serving",
    "scope": "subscriptions.scopes",
    "serve_worker": "serving",
}
"""What knows drivers and configuration, by its module: imported where it is used, not by every handler module."""


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
