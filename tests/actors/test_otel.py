"""Spans of handler runs, with OpenTelemetry's own SDK."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hexa_worker import BatchContext, Context, DeadLetter, Drop, Retry, otel
from hexa_worker.core.message import Message, header
from tests.actors.conftest import plan_of
from tests.actors.worker_fixture import WorkerFixture

pytestmark = pytest.mark.anyio
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
COME = f"00-{TRACE_ID}-b7ad6b7169203331-01".encode()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def emit_traced(stage: WorkerFixture, traceparent: bytes = COME) -> None:
    headers = (("traceparent", traceparent), ("tracestate", b"vendor=1"))
    stage.store.append(Message(channel="events", payload=b"1", headers=headers))


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return trace.format_trace_id(span.context.trace_id)


async def test_a_span_continues_the_trace_of_its_event_and_children_continue_the_span(
    spans: InMemorySpanExporter,
) -> None:
    stage, seen = WorkerFixture(), dict[str, bytes | None]()

    async def parent(_payload: Any, ctx: Context) -> None:
        await ctx.emit("children", {"n": 1})

    async def child(_payload: Any, ctx: Context) -> None:
        seen["parent"] = header(ctx.delivery.headers, "traceparent")
        seen["state"] = header(ctx.delivery.headers, "tracestate")

    emit_traced(stage)
    plans = plan_of(parent, "parent"), plan_of(child, "child", channels=("children",))
    assert await stage.run(*plans, middlewares=(otel.middleware,)) == 0
    first, second = sorted(spans.get_finished_spans(), key=lambda one: one.start_time or 0)
    assert [trace_id(one) for one in (first, second)] == [TRACE_ID] * 2
    assert first.parent is not None
    assert first.context is not None
    assert second.parent is not None
    assert trace.format_span_id(first.parent.span_id) == "b7ad6b7169203331"
    assert second.parent.span_id == first.context.span_id
    assert seen["parent"] == f"00-{TRACE_ID}-{trace.format_span_id(first.context.span_id)}-01".encode()
    assert seen["state"] == b"vendor=1"
    assert (first.name, first.kind) == ("process events", trace.SpanKind.CONSUMER)
    assert first.attributes is not None
    assert (first.attributes["hexa_worker.action"], first.attributes["hexa_worker.attempt"]) == ("parent", 0)


@pytest.mark.parametrize("how", ["return", "raise"])
@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Retry(reason="later"), trace.StatusCode.ERROR),
        (DeadLetter("hopeless"), trace.StatusCode.ERROR),
        (Drop("unwanted"), trace.StatusCode.UNSET),
    ],
    ids=["retry", "dead letter", "drop"],
)
async def test_an_outcome_that_is_no_success_is_an_error(
    spans: InMemorySpanExporter, outcome: Retry | DeadLetter | Drop, status: trace.StatusCode, how: str
) -> None:
    stage = WorkerFixture()

    async def handle(_payload: Any, ctx: Context) -> Retry | DeadLetter | Drop | None:
        if ctx.attempt:
            return None
        if how == "raise":
            raise outcome
        return outcome

    stage.emit(1)
    await stage.run(plan_of(handle), middlewares=(otel.middleware,))
    first, *_ = sorted(spans.get_finished_spans(), key=lambda one: one.start_time or 0)
    assert first.attributes is not None
    assert first.attributes["hexa_worker.outcome"] == type(outcome).__name__
    assert (first.status.status_code, first.events) == (status, ())


async def test_what_a_handler_raises_is_recorded(spans: InMemorySpanExporter) -> None:
    stage = WorkerFixture()

    async def handle(_payload: Any, _ctx: Context) -> None:
        raise ValueError("no luck")

    stage.emit(1)
    await stage.run(plan_of(handle), middlewares=(otel.middleware,))
    found = spans.get_finished_spans()
    assert {(one.status.status_code, one.status.description) for one in found} == {
        (trace.StatusCode.ERROR, "ValueError")
    }
    assert {event.name for one in found for event in one.events} == {"exception"}


async def test_a_batch_is_one_span_with_a_link_to_each_trace(spans: InMemorySpanExporter) -> None:
    stage = WorkerFixture()

    async def handle(numbers: list[int], _ctx: BatchContext) -> None:
        assert len(numbers) == 3

    emit_traced(stage)
    emit_traced(stage, b"no trace at all")
    emit_traced(stage)
    await stage.run(plan_of(handle, batch=3), middlewares=(otel.middleware,))
    (span,) = spans.get_finished_spans()
    assert [trace.format_trace_id(link.context.trace_id) for link in span.links] == [TRACE_ID] * 2
    assert span.parent is None
    assert span.attributes is not None
    assert span.attributes["messaging.batch.message_count"] == 3


async def test_without_a_tracer_provider_children_take_the_trace_over_as_it_is() -> None:
    stage, seen = WorkerFixture(), list[bytes | None]()

    async def parent(_payload: Any, ctx: Context) -> None:
        await ctx.emit("children", {"n": 1})

    async def child(_payload: Any, ctx: Context) -> None:
        seen.append(header(ctx.delivery.headers, "traceparent"))

    emit_traced(stage)
    plans = plan_of(parent, "parent"), plan_of(child, "child", channels=("children",))
    await stage.run(*plans, middlewares=(otel.middleware,))
    assert seen == [COME]
