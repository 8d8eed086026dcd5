"""What a channel may be called, broker by broker, so that it is known before anything is connected to."""

import re

KAFKA_LIMIT = 249
NATS_LIMIT = 1_000
PULSAR_LIMIT = 1_000

_KAFKA = re.compile(r"[A-Za-z0-9._-]+")
_NATS = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")
_PULSAR_FORBIDDEN = re.compile(r"[/\x00-\x1f\x7f\ud800-\udfff]|://")
_PULSAR_PARTITION = re.compile(r"-partition-\d+")
_PULSAR_FULL = re.compile(r"persistent://[^/\s]+/[^/\s]+/[^/\x00-\x1f\x7f\ud800-\udfff]+")


def channel_problem(driver: str, channel: str) -> str:
    """Why `channel` cannot be a channel of a driver's broker; empty when it can."""
    if not channel:
        return "a channel needs a name"
    try:
        size = len(channel.encode())
    except UnicodeEncodeError:
        return f"{channel[:100]!a} cannot be a channel: it is no text that UTF-8 can say"
    match driver:
        case "kafka":
            return _kafka(channel)
        case "nats":
            return _nats(channel, size)
        case "pulsar":
            return _pulsar(channel, size)
        case _:
            return ""


def _kafka(channel: str) -> str:
    if _KAFKA.fullmatch(channel) is None or channel in (".", ".."):
        return f"{channel[:100]!r} cannot be a channel: a topic is made of ASCII letters, digits, '.', '_' and '-'"
    if len(channel) > KAFKA_LIMIT:
        return f"a channel's name is at most {KAFKA_LIMIT} letters long: {channel[:100]!r}…"
    return ""


def _nats(channel: str, size: int) -> str:
    if _NATS.fullmatch(channel) is None or channel.startswith(("$", "_INBOX.")):
        return (
            f"{channel[:100]!r} cannot be a channel: a subject is made of tokens joined by dots, "
            "without spaces, '*', '>' and a leading '$'"
        )
    if size > NATS_LIMIT:
        return f"a channel's name is at most {NATS_LIMIT} bytes long: {channel[:100]!r}…"
    return ""


def _pulsar(channel: str, size: int) -> str:
    if channel.startswith("persistent://"):
        if _PULSAR_FULL.fullmatch(channel) is None or size > PULSAR_LIMIT:
            return f"{channel[:100]!r} is not a topic: persistent://tenant/namespace/name"
        return ""
    if not channel.strip() or _PULSAR_FORBIDDEN.search(channel) or _PULSAR_PARTITION.search(channel[-20:]):
        return f"{channel[:100]!r} cannot be a channel: no '/', no control characters, and not a partition's name"
    if size > PULSAR_LIMIT:
        return f"a channel's name is at most {PULSAR_LIMIT} bytes long: {channel[:100]!r}…"
    return ""
