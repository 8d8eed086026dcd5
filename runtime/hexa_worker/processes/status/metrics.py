"""An overview as Prometheus text (format 0.0.4).

Names and attributes of the first four metrics are hexa-event's. Written out by hand: the client library would
add 8 MiB to a parent that has to stay small, to print numbers that are counted elsewhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from hexa_worker.processes.status.overview import Overview
from hexa_worker.processes.status.totals import Total
from hexa_worker.telemetry.stats import DURATION_BOUNDS_S

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SETTLED: Final = (
    "acked",
    "dropped",
    "duplicates",
    "expired",
    "retried",
    "snoozed",
    "dead_lettered",
    "released",
    "lost",
)
_OUTBOX: Final = (
    ("hexa_worker_outbox_pending_events", "gauge", "Events that are written and not sent.", "pending"),
    ("hexa_worker_outbox_oldest_event_age_seconds", "gauge", "Age of the oldest of them.", "oldest_age_s"),
    ("hexa_worker_outbox_parked_events", "gauge", "Events that the broker refused too often.", "parked"),
    ("hexa_worker_outbox_relayed_events_total", "counter", "Events that the broker confirmed.", "relayed"),
    ("hexa_worker_outbox_refused_events_total", "counter", "Refusals by the broker.", "refused"),
    ("hexa_worker_outbox_batches_total", "counter", "Batches that were sent.", "batches"),
    ("hexa_worker_outbox_sending_seconds_total", "counter", "Time spent with sending them.", "sending_s"),
)
"""Name, kind, meaning and field of each metric of the outbox."""
_FAILED: Final = ("failed", "timeouts", "undecodable")
Labels = dict[str, str]
Sample = tuple[str, Labels, float]
"""What is added to the metric's name, labels, value."""
Family = tuple[str, str, str, Iterable[Sample]]
"""A metric's name, its kind, what it means, its samples."""
Counted = Sequence[tuple[Labels, Total]]
"""Of each subscription its labels and what was counted."""


def exposition(view: Overview) -> str:
    lines: list[str] = []
    for name, kind, help_text, samples in _families(view):
        lines += (f"# HELP {name} {help_text}", f"# TYPE {name} {kind}")
        lines += (f"{name}{suffix}{_braces(labels)} {_number(value)}" for suffix, labels, value in samples)
    return "\n".join(lines) + "\n"


def _families(view: Overview) -> Iterator[Family]:
    totals = [(_labels(action, total), total) for action, total in sorted(view.totals.items())]
    yield from _deliveries(totals)
    yield from _outcomes(totals)
    yield from _gauges(view)
    yield from _outbox(view)


def _deliveries(totals: Counted) -> Iterator[Family]:
    """Those of hexa-event."""
    yield (
        "received_events_total",
        "counter",
        "Deliveries taken from the broker.",
        [("", labels, total.counters.received) for labels, total in totals],
    )
    yield (
        "failed_events_total",
        "counter",
        "Deliveries whose handling failed.",
        [
            ("", labels | {"messaging_with_error": "true"}, sum(getattr(total.counters, name) for name in _FAILED))
            for labels, total in totals
        ],
    )
    yield (
        "event_consume_duration_seconds",
        "histogram",
        "How long handler calls took.",
        [sample for labels, total in totals for sample in _histogram(labels, total)],
    )
    yield (
        "event_payload_size_bytes",
        "summary",
        "Sizes of payloads.",
        [
            sample
            for labels, total in totals
            for sample in (
                ("_sum", labels, total.counters.received_bytes),
                ("_count", labels, total.counters.received),
            )
        ],
    )


def _outcomes(totals: Counted) -> Iterator[Family]:
    for name, help_text, label, counters in (
        ("hexa_worker_settled_events_total", "Deliveries by what was done about them.", "settlement", _SETTLED),
        ("hexa_worker_failures_total", "Failed deliveries by reason.", "reason", _FAILED),
        (
            "hexa_worker_dedup_failures_total",
            "Deliveries that deduplication could not vouch for: handled unclaimed, or overtaken by another owner.",
            "kind",
            ("unclaimed", "overtaken"),
        ),
    ):
        samples = [
            ("", labels | {label: counter}, getattr(total.counters, counter))
            for labels, total in totals
            for counter in counters
        ]
        yield name, "counter", help_text, samples
    yield (
        "hexa_worker_subscription_restarts_total",
        "counter",
        "How often the worker of a subscription broke.",
        [("", labels, total.counters.restarts) for labels, total in totals],
    )


def _gauges(view: Overview) -> Iterator[Family]:
    present = [
        ({"process": str(process.slot), "messaging_action_name": one.action}, one)
        for process in view.processes
        for one in process.report.subscriptions
    ]
    for name, help_text, field in (
        ("hexa_worker_mailbox_deliveries", "Deliveries received and not settled.", "held"),
        ("hexa_worker_mailbox_limit", "How many deliveries a mailbox may hold.", "mailbox"),
        ("hexa_worker_running_deliveries", "Deliveries that handlers run now.", "in_flight"),
        ("hexa_worker_paused", "Whether an operator has paused the subscription.", "paused"),
        ("hexa_worker_paused_keys", "How many of its keys an operator has paused.", "paused_keys"),
    ):
        yield name, "gauge", help_text, [("", labels, getattr(one, field)) for labels, one in present]
    for name, help_text, field in (
        (
            "hexa_worker_parked_deliveries",
            "Deliveries kept back because the broker refuses their retry or dead-letter record.",
            "parked",
        ),
        ("hexa_worker_on_hold_deliveries", "Deliveries that hold their subscription: no retry is left.", "on_hold"),
        ("hexa_worker_waiting_keys", "Keys that wait for a retry in its place.", "waiting_keys"),
        ("hexa_worker_held_back_deliveries", "Deliveries that stand aside because their key waits.", "held_back"),
    ):
        yield name, "gauge", help_text, [("", labels, getattr(one.counters, field)) for labels, one in present]
    slots = [({"process": str(process.slot)}, process) for process in view.processes]
    yield (
        "hexa_worker_process_ready",
        "gauge",
        "Whether a process is up and all its subscriptions consume.",
        [("", labels, process.ready) for labels, process in slots],
    )
    yield (
        "hexa_worker_process_restarts_total",
        "counter",
        "How often a process was started again.",
        [("", labels, process.restarts) for labels, process in slots],
    )
    yield "hexa_worker_processes", "gauge", "How many processes there should be.", [("", {}, len(view.processes))]
    yield (
        "hexa_worker_suspects",
        "gauge",
        "Deliveries that were in hand when a process died.",
        [("", {}, view.suspects)],
    )


def _outbox(view: Overview) -> Iterator[Family]:
    """Of the outbox's relay; nothing where there is none."""
    relays = [
        ({"process": str(process.slot)}, process.report.outbox)
        for process in view.processes
        if process.report.outbox is not None
    ]
    if not relays:
        return
    for name, kind, help_text, field in _OUTBOX:
        yield name, kind, help_text, [("", labels, getattr(one, field)) for labels, one in relays]
    leading = [("", labels, one.state == "leading") for labels, one in relays]
    yield "hexa_worker_outbox_leader", "gauge", "Whether the process sends what is in the outbox.", leading


def _labels(action: str, total: Total) -> Labels:
    return {
        "messaging_system": total.system,
        "messaging_destination": total.destination,
        "messaging_action_name": action,
        "messaging_action_root_name": action,
    }


def _histogram(labels: Labels, total: Total) -> Iterator[Sample]:
    counters = total.counters
    cumulative = list(accumulate(counters.duration_buckets))
    for bound, count in zip((*map(_number, DURATION_BOUNDS_S), "+Inf"), cumulative, strict=True):
        yield "_bucket", labels | {"le": bound}, count
    yield "_sum", labels, counters.duration_sum_s
    yield "_count", labels, cumulative[-1]


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
