"""Several types on one channel: the plans of its types are put together, so that they share one source."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from hexa_worker.config.mistakes import key_path, suggest
from hexa_worker.config.model import NAME_PATTERN, ChannelConfig, Config
from hexa_worker.config.rules import field_problem
from hexa_worker.core.event_types import ANY_OTHER, TypeReader, type_reader
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.outcome import DeadLetter, Drop
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.context import Context
from hexa_worker.subscriptions.plan import DECORATOR, DEFAULT, FILE, Handler, Plan, Setting, SharedSource
from hexa_worker.subscriptions.signature import short_path

_SHARED = ("start", "order_by", "codec")
_OF_THE_CHANNEL = ("group", "retry_channel", "wire", "enabled")
"""What worker.toml cannot say of one type."""


def share_sources(plans: Sequence[Plan], config: Config) -> list[Plan]:
    """The plans with those that are for types put together, and one for what is of no known type.

    Raises:
        ConfigError: they do not fit together, or worker.toml does not say where the type of an event stands.
    """
    by_channel: dict[str, list[Plan]] = defaultdict(list)
    for plan in plans:
        if plan.type is not None:
            by_channel[_only_channel(plan)].append(plan)
    file = short_path(str(config.path))
    for channel in config.file.channels:
        if channel not in by_channel:
            raise ConfigError(
                "no handler is for a type of this channel",
                where=f"{file}: {key_path(('channels', channel))}",
                hint=suggest(channel, by_channel) if by_channel else 'write @subscribe("channel", type="…")',
            )
    shared = [one for channel, typed in by_channel.items() for one in _together(channel, typed, config, file)]
    return [plan for plan in plans if plan.type is None] + shared


def _only_channel(plan: Plan) -> str:
    if len(plan.channels) != 1:
        raise ConfigError(
            f"{plan.action} is for a type, but reads several channels",
            where=plan.handler.where,
            hint="a handler of a type reads one channel: name it once per channel",
        )
    return plan.channels[0]


def _together(channel: str, plans: Sequence[Plan], config: Config, file: str) -> Iterator[Plan]:
    place = f"{file}: {key_path(('channels', channel))}"
    table = config.file.channels.get(channel)
    if table is None:
        raise ConfigError(
            f"nothing says where the type of an event of {channel} stands",
            where=plans[0].handler.where,
            hint=f'write type = "header:NAME" or "payload:FIELD" under [{key_path(("channels", channel))}]',
        )
    group = _group(channel, table, config, place)
    for plan in plans:
        _check_own(plan, place)
    actions = _actions(plans)
    for key in _SHARED:
        _require_one(key, [(plan, plan.settings[key].value) for plan in plans if _states(plan, key)])
    common_said = {key: _said_first(plans, key) for key in _SHARED}
    common = {key: one.value for key, one in common_said.items()}
    problem = field_problem(table.type, common["codec"])
    if problem is not None:
        raise ConfigError(problem[0], where=f"{place}.type", hint=problem[1])
    read = type_reader(table.type, common["codec"])
    first = plans[0]
    order_by = OrderBy(common["order_by"])
    others = actions.pop(ANY_OTHER, f"{group}.unknown")
    shared = SharedSource(
        group=group,
        read=read,
        actions=actions,
        others=others,
        order_by=order_by,
        mailbox=max(plan.mailbox for plan in plans),
        retry=max((plan.retry for plan in plans), key=lambda retry: retry.channels_count),
        in_place=any(plan.retry.order == "key" for plan in plans),
    )
    options = _agreed_options(plans)
    group_said = Setting(group, DEFAULT if table.group is None else FILE)
    for plan in plans:
        yield replace(
            plan,
            group=group,
            retry_base=group,
            start=common["start"],
            order_by=order_by,
            options=options,
            shared=shared,
            settings={**plan.settings, **common_said, "type": Setting(plan.type, DECORATOR), "group": group_said},
        )
    if others == f"{group}.unknown":
        handler = _refusing(table, read, place)
        yield _unknown(replace(first, group=group, order_by=order_by, options=options, shared=shared), handler)


def _group(channel: str, table: ChannelConfig, config: Config, place: str) -> str:
    """What the progress of all types is called, whichever they are."""
    group = table.group or f"{config.file.worker.name}.{channel}"
    if re.search(NAME_PATTERN, group) is None:
        raise ConfigError(f'"{group}" cannot name its group', where=place, hint="set group")
    return group


def _check_own(plan: Plan, place: str) -> None:
    said = [key for key in _OF_THE_CHANNEL if key in plan.settings]
    if said:
        raise ConfigError(
            f"subscriptions.{plan.action} says {said[0]}, which all types of its channel share",
            where=place,
            hint="leave it out there" + ("; set group here" if said[0] in ("group", "retry_channel") else ""),
        )


def _actions(plans: Sequence[Plan]) -> dict[str, str]:
    actions: dict[str, str] = {}
    for plan in plans:
        other = actions.setdefault(plan.type or ANY_OTHER, plan.action)
        if other != plan.action:
            raise ConfigError(
                f'a second handler for type "{plan.type}" of {plan.channels[0]}; the first is {other}',
                where=plan.handler.where,
                hint="one type has one handler: emit another event for the second",
            )
    return actions


def _said_first(plans: Sequence[Plan], key: str) -> Setting:
    """A setting that is one for all: who does not state it goes with who does."""
    return next((plan.settings[key] for plan in plans if _states(plan, key)), plans[0].settings[key])


def _states(plan: Plan, key: str) -> bool:
    return plan.settings[key].stated_by != DEFAULT


def _agreed_options(plans: Sequence[Plan]) -> Any:
    stated = [(plan, plan.options) for plan in plans if plan.options is not None]
    _require_one("the options of the driver", stated)
    return stated[0][1] if stated else None


def _require_one(what: str, stated: Sequence[tuple[Plan, Any]]) -> None:
    for plan, value in stated[1:]:
        if value != stated[0][1]:
            raise ConfigError(
                f"{what} is {value} for {plan.action} and {stated[0][1]} for {stated[0][0].action}",
                where=plan.handler.where,
                hint="the types of a channel are read together: let them agree, or say it once",
            )


def _refusing(table: ChannelConfig, read: TypeReader, place: str) -> Handler:
    """What becomes of events of types that nobody is for."""
    verdict = Drop if table.unknown == "drop" else DeadLetter

    async def refuse(_payload: bytes, ctx: Context[Any]) -> None:
        type_ = read(ctx.delivery)
        what = "its type cannot be read" if type_ is None else f"no handler is for type {type_[:100]!r}"
        raise verdict(f"{what} ({table.type})")

    return Handler(
        function=refuse,
        where=place,
        style="async",
        takes_context=True,
        batch=False,
        payload_type="bytes",
        decode=lambda payload: payload,
    )


def _unknown(like: Plan, handler: Handler) -> Plan:
    assert like.shared is not None  # noqa: S101 - it has just been given
    return replace(
        like,
        action=like.shared.others,
        type=ANY_OTHER,
        handler=handler,
        middlewares=(),
        retry_base=like.group,
        concurrency=1,
        threads=1,
        batch=1,
        retry=RetryPolicy(maximum_retries=0),
        on_exhausted="dead_letter",
        rules={},
        effect_key=None,
        settings={},
    )
