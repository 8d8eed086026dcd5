"""Rules between the keys of worker.toml, which no single key can break."""

import re

from hexa_worker.config.check import Check, Keys
from hexa_worker.config.dedup import FIELD_CODECS
from hexa_worker.config.model import File, Subscription


def check_rules(file: File, check: Check) -> None:
    """Report every broken rule to `check`."""
    for action, subscription in file.subscriptions.items():
        check_channels(subscription, check, ("subscriptions", action))
        _check_key(subscription, check, ("subscriptions", action, "idempotency_key"))


def _check_key(subscription: Subscription, check: Check, keys: Keys) -> None:
    """A field can only be found where the payload is JSON or MessagePack."""
    kind, _, path = (subscription.idempotency_key or "").partition(":")
    if kind == "payload" and subscription.codec not in FIELD_CODECS:
        check.report(keys, f'names a field, but the codec is "{subscription.codec}"', "use a header")
    if kind == "payload" and not all(path.split(".")):
        check.report(keys, "names no field between two dots")


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
