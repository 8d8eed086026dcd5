"""What of a subscription is there, and what stands in its way: for ``check --connect``. Changes nothing."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from hexa_worker.config.kafka import Kafka
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import Finding, SubscriptionSpec
from hexa_worker.drivers.kafka.channels import channels_of
from hexa_worker.drivers.kafka.consumer import ASSIGNORS
from hexa_worker.drivers.kafka.registry import LOOKED_AT
from hexa_worker.drivers.kafka.rights import rights_of
from hexa_worker.drivers.kafka.settings import largest_record, note_of, problem_of, warning_of
from hexa_worker.drivers.kafka.topics import TopicAdmin
from hexa_worker.errors import DriverRejected

_UNKNOWN_TOPIC, _DENIED_TOPIC, _INVALID_TOPIC, _DENIED_GROUP = 3, 29, 17, 30
_USED = frozenset({"read", "write", "describe", "delete"})
_DEAD = "Dead"
"""The state of a group that does not exist."""


async def preflight(topics: TopicAdmin, options: Kafka, spec: SubscriptionSpec) -> list[Finding]:
    """See `hexa_worker.drivers.base.Driver.preflight`."""
    channels = channels_of(spec, await topics.partitions() if spec.pattern is not None else ())
    kinds = dict.fromkeys(channels, "channel") | dict.fromkeys(spec.retry_channels, "retry channel")
    kinds[spec.dead_letter_channel] = "dead letter"
    found, cluster = await topics.look(list(kinds))
    findings = []
    for name, kind in kinds.items():
        made = options.create_channels if kind == "channel" else options.create_retry_channels
        wanted = {"channel": {"read"}, "retry channel": {"read", "write"}, "dead letter": {"write"}}[kind]
        findings.append(_topic(kind, name, found.get(name, {}), cluster, made=made, wanted=wanted))
    ordered = spec.order_by is OrderBy.CHANNEL
    findings = [_in_order(one, found.get(one.name, {})) if ordered else one for one in findings]
    return [*await _kept(topics, options, spec, findings), await _group(topics, spec.group)]


async def _kept(topics: TopicAdmin, options: Kafka, spec: SubscriptionSpec, findings: list[Finding]) -> list[Finding]:
    """What the settings of retry and dead-letter topics will lose."""
    channels = [one.name for one in findings if one.exists and one.kind == "channel"][:LOOKED_AT]
    failures = [one.name for one in findings if one.exists and one.kind != "channel"]
    settings = await topics.settings([*channels, *failures])
    largest = largest_record(options.max_payload, [settings.get(name, {}) for name in channels])
    delays: dict[str, int] = dict(zip(spec.retry_channels, spec.retry_delays_ms, strict=False))
    server = options.servers[0]
    told = []
    for one in findings:
        if one.name in failures and one.name in settings:
            own, delay_ms = settings[one.name], None if one.kind == "dead letter" else delays.get(one.name, 0)
            problem = one.problem or problem_of(own, one.name, server)
            warning = warning_of(own, one.name, server, largest=largest, delay_ms=delay_ms)
            note = ", ".join(filter(None, (one.note, note_of(own))))
            one = structs.replace(one, problem=problem, warning=warning, note=note)  # noqa: PLW2901 - with more told
        told.append(one)
    return told


def _topic(  # noqa: PLR0913 - what is known of it
    kind: str, name: str, found: Mapping[str, Any], cluster: frozenset[str], *, made: bool, wanted: set[str]
) -> Finding:
    code = found.get("error_code", _UNKNOWN_TOPIC)
    if code == _DENIED_TOPIC:
        return Finding(kind=kind, name=name, exists=None, rights=(), problem="this login may not see it")
    if code == _INVALID_TOPIC:
        return Finding(kind=kind, name=name, exists=False, problem="Kafka does not allow that topic name")
    if code == _UNKNOWN_TOPIC:
        option = "create_channels" if kind == "channel" else "create_retry_channels"
        problem = "" if made else f"it does not exist: make it, or set {option} = true in [broker]"
        if made and cluster and "create" not in cluster:
            return Finding(kind=kind, name=name, exists=False, note="this login may lack the right to make it")
        return Finding(kind=kind, name=name, exists=False, problem=problem)
    count = len(found["partitions"])
    rights = rights_of(found["authorized_operations"])
    missing = wanted - rights if rights else set()
    problem = f"this login has no right to {' and '.join(sorted(missing))}" if missing else ""
    note = f"{count} partition{'' if count == 1 else 's'}"
    return Finding(kind=kind, name=name, exists=True, rights=_told(rights), problem=problem, note=note)


def _in_order(one: Finding, found: Mapping[str, Any]) -> Finding:
    if one.kind != "channel" or len(found.get("partitions", ())) < 2 or one.problem:  # noqa: PLR2004 - one is fine
        return one
    return structs.replace(one, problem='order_by = "channel" needs a topic of one partition')


def _told(rights: frozenset[str]) -> tuple[str, ...] | None:
    return tuple(sorted(rights & _USED)) if rights else None


async def _group(topics: TopicAdmin, group: str) -> Finding:
    try:
        found = await topics.group(group)
    except DriverRejected as error:
        return Finding(kind="group", name=group, exists=None, rights=(), problem=str(error).removeprefix("kafka: "))
    if found["error_code"] == _DENIED_GROUP:
        return Finding(kind="group", name=group, exists=None, rights=(), problem="this login may not use it")
    rights = rights_of(found["authorized_operations"])
    problem = "this login has no right to read" if rights and "read" not in rights else _stranger(found)
    exists = found["state"] != _DEAD
    count = len(found["members"])
    note = f"{found['state'].lower()}, {count} member{'' if count == 1 else 's'}" if exists else ""
    return Finding(kind="group", name=group, exists=exists, rights=_told(rights), problem=problem, note=note)


def _stranger(found: Mapping[str, Any]) -> str:
    """Why a group takes none of ours among its members; empty: it does."""
    ours = [one.name for one in ASSIGNORS]
    kind, way = found["protocol_type"], found["protocol"]
    if found["members"] and kind != "consumer":
        return f"its members are no consumers ({kind}): give the subscription another group"
    if way and way not in ours:
        return f"its members assign partitions by {way}: let them offer {' or '.join(ours)}, or take another group"
    return ""
