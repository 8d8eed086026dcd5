"""Puts one subscription together: worker.toml over decorator over defaults."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hexa_worker.codecs import Codec
from hexa_worker.codecs.either import json_or
from hexa_worker.config.check import Check
from hexa_worker.config.mistakes import key_path
from hexa_worker.config.model import NAME_DESCRIPTION, NAME_PATTERN, Config, Subscription, subscription_defaults
from hexa_worker.config.pulsar import Pulsar, PulsarSubscription
from hexa_worker.config.rules import check_channels, field_problem
from hexa_worker.config.secret import shown
from hexa_worker.core.channels import dead_letter_channel
from hexa_worker.core.idempotency import EffectKey, by_event, by_field, by_header
from hexa_worker.core.naming import channel_problem
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import KEYS, Retries, RetryPolicy
from hexa_worker.errors import ConfigError
from hexa_worker.record_formats.form import Wire
from hexa_worker.subscriptions import error_classes
from hexa_worker.subscriptions.api import Mark, Middleware
from hexa_worker.subscriptions.collect import Marked
from hexa_worker.subscriptions.plan import DECORATOR, DEFAULT, FILE, Handler, Plan, Setting
from hexa_worker.subscriptions.schedules import schedule_of
from hexa_worker.subscriptions.signature import place_of, short_path, understand

_CHANNELS = ("channel", "channels", "pattern")
_KEEPS_ORDER = {"key": ("key_shared", "exclusive", "failover"), "channel": ("exclusive", "failover")}
"""Which of pulsar's subscription types keep an order."""
_SETTINGS = (
    "concurrency",
    "order_by",
    "timeout_s",
    "batch",
    "batch_wait_s",
    "threads",
    "mailbox",
    "start",
    "codec",
    "idempotency_key",
    "on_exhausted",
    "reply_to",
    *error_classes.KEYS,
)


def make_plan(config: Config, marked: Marked, middlewares: tuple[Middleware, ...]) -> Plan:
    """The plan of one subscription.

    Args:
        config: the loaded worker.toml.
        marked: the function and what its decorator said.
        middlewares: the ones worker.toml names for it.

    Raises:
        ConfigError: decorator, function and worker.toml do not fit together.
    """
    mark = marked.mark
    from_file = config.file.subscriptions.get(mark.action, Subscription())
    from_decorator = _from_decorator(marked)
    stated = _merged(from_decorator, from_file)
    settings = {**stated, **{key: one for key, one in subscription_defaults().items() if stated[key] is None}}
    retry = from_file.retry.over(from_decorator.retry)
    wire = from_file.wire or config.file.broker.wire
    handler = _handler(marked, settings["codec"], wire, batch=settings["batch"] is not None)
    where = _Places(config, mark.action, handler, from_file)
    _check_channel(settings, handler, mark.action)
    _check_stated(stated, handler, where)
    _check_key(settings, where)
    _check_retry_order(settings, handler, retry, where)
    if isinstance(config.file.broker, Pulsar) and from_file.pulsar is not None:
        _check_pulsar(settings, from_file.pulsar, where)
    channels = (settings["channel"],) if settings["channel"] else tuple(settings["channels"] or ())
    group = from_file.group or mark.action
    retry_base = from_file.retry_channel or group
    _check_names(driver_name(config), channels, retry_base, where)
    _check_reply(driver_name(config), settings["reply_to"], where)
    return Plan(
        action=mark.action,
        handler=handler,
        middlewares=(*middlewares, *mark.middlewares),
        channels=channels,
        pattern=settings["pattern"],
        group=group,
        retry_base=retry_base,
        start=settings["start"],
        concurrency=settings["concurrency"],
        mailbox=settings["mailbox"],
        mailbox_bytes=settings["mailbox_bytes"],
        order_by=OrderBy(settings["order_by"]),
        timeout_s=settings["timeout_s"] or None,
        batch=settings["batch"] or 1,
        batch_wait_s=settings["batch_wait_s"],
        threads=settings["threads"] or settings["concurrency"],
        retry=retry,
        on_exhausted=settings["on_exhausted"],
        rules=error_classes.rules_of(mark, from_file, config.folder, where.of),
        effect_key=_effect_key(config, mark.action, settings, dedup=from_file.dedup),
        options=getattr(from_file, driver_name(config), None),
        wire=wire,
        reply_to=settings["reply_to"],
        schedule=schedule_of(marked.function),
        type=_type(mark, handler.where),
        settings=_explained(settings, retry, from_decorator, from_file),
    )


def _type(mark: Mark, where: str) -> str | None:
    type_: Any = mark.type
    if type_ is None or (isinstance(type_, str) and type_):
        return type_
    raise ConfigError(f"must be the name of a type, not {shown(type_)}", where=f"{where}: type", hint='write type="…"')


def _check_channel(settings: Mapping[str, Any], handler: Handler, action: str) -> None:
    if not (settings["channel"] or settings["channels"] or settings["pattern"]):
        raise ConfigError(
            f"subscription {action} has no channel",
            where=handler.where,
            hint=f'write @subscribe("channel"), or channel = "…" under [{key_path(("subscriptions", action))}]',
        )


def _effect_key(config: Config, action: str, settings: Mapping[str, Any], *, dedup: bool) -> EffectKey | None:
    """Names the effects of a subscription among all that share the claim store; None without deduplication."""
    claims = config.file.dedup
    if claims.store == "none" or not dedup:
        return None
    kind, _, name = (settings["idempotency_key"] or "").partition(":")
    key: EffectKey
    match kind:
        case "header":
            key = by_header(name)
        case "payload":
            key = by_field(name, settings["codec"])
        case _:
            key = by_event
    prefix = f"{claims.namespace or config.file.worker.name}:{action}:"
    return lambda delivery: prefix + key(delivery)


def _handler(marked: Marked, codec: Codec, wire: Wire, *, batch: bool) -> Handler:
    """The handler of a subscription; where hexa-event writes, JSON is understood beside a binary codec."""
    handler = understand(marked.function, batch=batch, codec=codec)
    if wire != "hexa" or codec not in ("msgpack", "protobuf"):
        return handler
    json = understand(marked.function, batch=batch, codec="json")
    errors = tuple({*handler.decode_errors, *json.decode_errors})
    return msgspec.structs.replace(handler, decode=json_or(json.decode, handler.decode), decode_errors=errors)


def driver_name(config: Config) -> str:
    """The name of the configured driver; `Subscription` has a field of that name if it has options."""
    return str(config.file.broker.__struct_config__.tag)


class _Places:
    """Where a setting was stated: in worker.toml, or at the function."""

    def __init__(self, config: Config, action: str, handler: Handler, from_file: Subscription) -> None:
        self._config = config
        self._action = action
        self._handler = handler
        self._written = from_file

    def of(self, key: str) -> str:
        return self.in_file(key) if self.wrote(key) else self._handler.where

    def of_retry(self, name: str) -> str:
        """Of a field of `Retries`."""
        if getattr(self._written.retry, name) is None:
            return f"{self._handler.where}: retry.{name}"
        return self.in_file("retry", KEYS[name])

    def wrote(self, key: str) -> bool:
        """Whether worker.toml says it."""
        return getattr(self._written, key) is not None

    def in_file(self, *keys: str) -> str:
        return f"{short_path(str(self._config.path))}: {key_path(('subscriptions', self._action, *keys))}"


def _check_names(driver: str, channels: Sequence[str], retry_base: str, where: _Places) -> None:
    """What no broker of this kind could have, told before one is asked."""
    for channel in channels:
        problem = channel_problem(driver, channel)
        if problem:
            key = "channel" if where.wrote("channel") else "channels"
            raise ConfigError(problem, where=where.of(key), hint=f"the driver is {driver}")
    problem = channel_problem(driver, dead_letter_channel(retry_base))
    if problem:
        key = "retry_channel" if where.wrote("retry_channel") else "group"
        raise ConfigError(
            problem, where=where.of(key), hint="its retries and dead letters are named so: set retry_channel"
        )


def _check_reply(driver: str, channel: str | None, where: _Places) -> None:
    if channel is not None and (problem := channel_problem(driver, channel)):
        raise ConfigError(problem, where=where.of("reply_to"), hint=f"the driver is {driver}")


def _from_decorator(marked: Marked) -> Subscription:
    """The decorator's arguments, checked by the rules of worker.toml.

    Raises:
        ConfigError: an argument is none that worker.toml would take.
    """
    mark = marked.mark
    data: dict[str, Any] = {
        key: getattr(mark, key)
        for key in (*_SETTINGS, "pattern")
        if key not in error_classes.KEYS and getattr(mark, key) is not None
    }
    if mark.channels:
        data["channels"] = list(mark.channels)
    place = place_of(marked.function)
    check = Check(place, None)
    if isinstance(mark.retry, Retries):
        named = {name: getattr(mark.retry, name) for name in mark.retry.__struct_fields__}
        data["retry"] = {name: value for name, value in named.items() if value is not None}
    elif mark.retry is not None:
        check.report(("retry",), f"must be a Retries, not {shown(mark.retry)}", "write retry=Retries(maximum=…)")
    from_decorator: Subscription | None = check.table(data, Subscription)
    if re.search(NAME_PATTERN, mark.action) is None:
        check.report(("action",), f'must be {NAME_DESCRIPTION}, not "{mark.action}"', "give it with action=…")
    if from_decorator is not None:
        check_channels(from_decorator, check, ())
    for error in check.mistakes:
        raise error
    return msgspec.structs.replace(from_decorator or Subscription(), **error_classes.names_of(mark, place))


def _merged(from_decorator: Subscription, from_file: Subscription) -> Mapping[str, Any]:
    """What is stated of each key, None where nothing is: worker.toml over decorator."""
    merged: dict[str, Any] = {"mailbox_bytes": from_file.mailbox_bytes}
    for key in _SETTINGS:
        value = getattr(from_file, key)
        merged[key] = getattr(from_decorator, key) if value is None else value
    # Where to read is one decision: worker.toml replaces all of it or none of it.
    source = from_file if any(getattr(from_file, key) is not None for key in _CHANNELS) else from_decorator
    return merged | {key: getattr(source, key) for key in _CHANNELS}


def _explained(
    settings: Mapping[str, Any], retry: RetryPolicy, from_decorator: Subscription, from_file: Subscription
) -> Mapping[str, Setting]:
    """Every setting that a decorator or worker.toml may state, by its key, and which of them did."""
    unstated = Subscription()
    from_channels = FILE if any(getattr(from_file, key) is not None for key in _CHANNELS) else DECORATOR
    explained: dict[str, Setting] = {}
    for key, value in settings.items():
        said_in = (one for one, table in _tables(from_decorator, from_file) if getattr(table, key) is not None)
        stated_by = from_channels if key in _CHANNELS else next(said_in, DEFAULT)
        if key not in _CHANNELS or value is not None:
            explained[key] = Setting(value, stated_by)
    for field, key in KEYS.items():
        said_in = (one for one, table in _tables(from_decorator, from_file) if getattr(table.retry, field) is not None)
        explained[f"retry.{key}"] = Setting(getattr(retry, key), next(said_in, DEFAULT))
    others = [key for key in from_file.__struct_fields__ if key not in settings and key != "retry"]
    stated = {key: getattr(from_file, key) for key in others}
    return explained | {key: Setting(one, FILE) for key, one in stated.items() if one != getattr(unstated, key)}


def _tables(from_decorator: Subscription, from_file: Subscription) -> tuple[tuple[str, Subscription], ...]:
    return (FILE, from_file), (DECORATOR, from_decorator)


def _check_stated(stated: Mapping[str, Any], handler: Handler, where: _Places) -> None:
    if stated["batch_wait_s"] is not None and stated["batch"] is None:
        raise ConfigError(
            "batch_wait_s without batch", where=where.of("batch_wait_s"), hint="set batch, or leave it out"
        )
    if stated["threads"] is not None and handler.style == "async":
        raise ConfigError(
            "threads, but the handler is async",
            where=where.of("threads"),
            hint="an async handler runs on the loop: leave threads out, or make it a plain def",
        )


def _check_key(settings: Mapping[str, Any], where: _Places) -> None:
    problem = field_problem(settings["idempotency_key"], settings["codec"])
    if problem is not None:
        raise ConfigError(f"idempotency_key {problem[0]}", where=where.of("idempotency_key"), hint=problem[1])


def _check_retry_order(settings: Mapping[str, Any], handler: Handler, retry: RetryPolicy, where: _Places) -> None:
    """A retry in its place: something must keep its order, one event at a time, and leave room for others."""
    if retry.order == "free":
        if retry.maximum_waiting_keys is not None:
            raise ConfigError(
                'maximum_waiting_keys without order = "key"',
                where=where.of_retry("maximum_waiting_keys"),
                hint='no key waits with order = "free": leave it out, or set order',
            )
        return
    place = where.of_retry("order")
    if settings["order_by"] == "none":
        raise ConfigError(
            'must be "free" while order_by is "none", not "key"',
            where=place,
            hint='without an order there is none to keep: set order_by = "key" (or "channel")',
        )
    if handler.batch:
        raise ConfigError(
            'must be "free" for a batch handler, not "key"',
            where=place,
            hint="events of one batch are handled at once, so none can wait for another: leave batch out",
        )
    mailbox = settings["mailbox"]
    if retry.maximum_waiting_keys is not None and retry.maximum_waiting_keys >= max(mailbox, 2):
        raise ConfigError(
            f"must be less than mailbox ({mailbox}), not {retry.maximum_waiting_keys}",
            where=where.of_retry("maximum_waiting_keys"),
            hint="what waits is in the mailbox: raise mailbox, or lower it",
        )


def _check_pulsar(settings: Mapping[str, Any], own: PulsarSubscription, where: _Places) -> None:
    """A type that is named keeps the order that is asked for, and can do what else is."""
    kind, order_by = own.type, settings["order_by"]
    keeps = _KEEPS_ORDER.get(order_by, ())
    if kind is not None and keeps and kind not in keeps:
        raise ConfigError(
            f'"{kind}" does not keep order_by = "{order_by}"',
            where=where.in_file("pulsar", "type"),
            hint=f"leave it out, or use {' or '.join(keeps)}",
        )
    if own.read_compacted and kind not in ("exclusive", "failover") and order_by != "channel":
        raise ConfigError(
            "needs one reader of each channel",
            where=where.in_file("pulsar", "read_compacted"),
            hint='set type = "exclusive" or "failover" beside it',
        )
