"""OpenTelemetry: a span around each run of a handler, as a middleware. Needs the extra ``otel``.

```toml
[worker]
middlewares = ["hexa_worker.otel:middleware"]
```

A span continues the trace that came with its event (W3C ``traceparent``), and child events (`ctx.emit`) continue the
span. A batch is one span with a link to each event's trace. Names follow OpenTelemetry's semantic conventions for
messaging. Spans go where the application's tracer provider sends them; without one nothing is recorded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hexa_worker.core.message import Headers, header
from hexa_worker.core.outcome import DeadLetter, Drop, Retry, Snooze, Verdict
from hexa_worker.core.propagated import TRACE_PARENT, TRACE_STATE
from hexa_worker.subscriptions.api import Context, Next

_NAMES = (TRACE_PARENT, TRACE_STATE)
_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("hexa_worker")


async def middleware(payload: Any, context: Any, call_next: Next) -> Any:
    """Run the handler in a span.

    What it raises is recorded, and an outcome that is no success makes the span an error.

    Cancellation: the span ends.
    """
    contexts: Sequence[Context[Any]] = context.items
    with _span(context.action, contexts) as span:
        for one in contexts:
            one.carried = _continued(one.carried)
        try:
            result = await call_next(payload, context)
        except Verdict as verdict:
            _tell(span, verdict)
            raise
        except Exception as error:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        _tell(span, result)
        return result


@contextmanager
def _span(action: str, contexts: Sequence[Context[Any]]) -> Iterator[Span]:
    first = contexts[0]
    origins = [_propagator.extract(_said(one.delivery.headers)) for one in contexts]
    alone = len(contexts) == 1
    attributes: dict[str, str | int] = {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": first.read_from,
        "hexa_worker.action": action,
    }
    if alone:
        attributes |= {
            "messaging.message.id": first.event_id,
            "hexa_worker.root_id": first.root_id,
            "hexa_worker.attempt": first.attempt,
        }
    else:
        attributes["messaging.batch.message_count"] = len(contexts)
    links = [] if alone else [Link(trace.get_current_span(origin).get_span_context()) for origin in origins]
    with _tracer.start_as_current_span(
        f"process {first.read_from}",
        context=origins[0] if alone else None,
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        links=[link for link in links if link.context.is_valid],
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def _said(headers: Headers) -> dict[str, str]:
    found = ((name, header(headers, name)) for name in _NAMES)
    return {name: value.decode("ascii", errors="replace") for name, value in found if value is not None}


def _continued(carried: Headers) -> Headers:
    """What children take over, with the present span as their parent; as it is when nothing is recorded."""
    now: dict[str, str] = {}
    _propagator.inject(now)
    if not now:
        return carried
    others = tuple(pair for pair in carried if pair[0] not in _NAMES)
    return (*others, *((name, value.encode()) for name, value in now.items()))


def _tell(span: Span, result: Any) -> None:
    """The outcome that a handler returned or raised, if it is one."""
    if isinstance(result, Retry | DeadLetter | Drop | Snooze):
        span.set_attribute("hexa_worker.outcome", type(result).__name__)
        if not isinstance(result, Drop):
            span.set_status(StatusCode.ERROR, result.reason)
