"""Rules between the keys of worker.toml, which no single key can break."""

import re

from hexa_worker.config.check import Check, Keys
from hexa_worker.config.dedup import FIELD_CODECS
from hexa_worker.config.model import File, Subscription


def check_rules(file: File, check: Check) -> None:
    """Report every broken rule to `check`."""
    for action, subscription in file.subscriptions.items():
        check_channels(subscription, check, ("subscriptions", action))
        problem = field_problem(subscription.idempotency_key, subscription.codec)
        if problem is not None:
            check.report(("subscriptions", action, "idempotency_key"), *problem)


def field_problem(key: str | None, codec: str | None) -> tuple[str, str] | None:
    """Why an idempotency key names no field of a payload, and what to do; a field is found in JSON and MessagePack."""
    kind, _, path = (key or "").partition(":")
    if kind != "payload":
        return None
    if (codec or "json") not in FIELD_CODECS:
        return f'names a field, but the codec is "{codec}"', "use a header"
    return None if all(path.split(".")) else ("names no field between two dots", "")


def check_channels(subscription: Subscription, check: Check, keys: Keys) -> None:
    """One of channel, channels and pattern, and each usable."""
    said = [key for key in ("channel", "channels", "pattern") if getattr(subscription, key) is not None]
    if len(said) > 1:
        check.report(keys, f"has {' and '.join(said)}", "channel, channels and pattern exclude each other")
    channels = subscription.channels or ()
    for channel in sorted({one for one in channels if channels.count(one) > 1}):
        check.report((*keys, "channels"), f'names "{channel}" twice')
    if subscription.pattern is not None:
        try:
            re.compile(subscription.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            check.report((*keys, "pattern"), f"is not a regular expression: {error}")
