"""What channels, groups and retry ladders are called in NATS.

A channel is a subject, unchanged. Streams and durables are named after channels and groups: ``.`` becomes ``~``,
and whatever else their names cannot hold becomes ``=`` and two hexadecimal digits (``%`` breaks server 2.9).
A doubled ``~~`` cannot come from a channel, so it marks the streams of retry ladders.
"""

import hashlib
import re

from hexa_worker.core.naming import channel_problem
from hexa_worker.errors import DriverRejected

TOKEN_LIMIT = 110
RETRY_DURABLE = "retry"
LEASES_STREAM = "hexa~~leases"
LEASES_PREFIX = "hexa.~~leases"
MARK = "~~"
"""In the name of every stream that keeps no channel of its own."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]")


def check_channel(channel: str) -> None:
    """Raise DriverRejected unless `channel` can be a subject of a stream."""
    problem = channel_problem("nats", channel)
    if problem:
        raise DriverRejected(problem)


def token(name: str) -> str:
    """`name` as a part of the name of a stream or durable; different names stay different."""
    text = "".join(_token_part(character) for character in name)
    if len(text) <= TOKEN_LIMIT:
        return text
    digest = hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
    return f"{text[: TOKEN_LIMIT - 26]}=-{digest}"


def _token_part(character: str) -> str:
    if character == ".":
        return "~"
    if _PLAIN.fullmatch(character):
        return character
    return "".join(f"={byte:02X}" for byte in character.encode())


def channel_stream(channel: str) -> str:
    """The stream of a channel that has one of its own."""
    return token(channel)


def retry_stream(base: str) -> str:
    """The stream of the retry channels of `base`."""
    return f"{token(base)}{MARK}retry"


def dead_letter_stream(base: str) -> str:
    """The stream of the dead letters of `base`."""
    return f"{token(base)}{MARK}dlq"


def durable(group: str, stream: str, channel: str) -> str:
    """The durable that keeps the progress of `group` in `channel`."""
    name = token(group)
    return name if stream == channel_stream(channel) else f"{name}{MARK}{token(channel)}"


def schedule_subject(channel: str, due_ms: int, message_id: str) -> str:
    """Where a record waits for its retry channel: one subject for each, the same when it is written again."""
    digest = hashlib.blake2b(message_id.encode(), digest_size=12).hexdigest()
    return f"{channel}.at.{due_ms}.{digest}"


def due_of_schedule(subject: str) -> int | None:
    """When the record waiting on a `schedule_subject` is due."""
    parts = subject.split(".")
    if len(parts) > 3 and parts[-3] == "at" and parts[-2].isdecimal():  # noqa: PLR2004 - channel, at, time, digest
        return int(parts[-2])
    return None


def covers(pattern: str, subject: str) -> bool:
    """Whether a subject with wildcards covers another one."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for place, part in enumerate(wanted):
        if part == ">":
            return len(tokens) > place
        if place >= len(tokens) or part not in {"*", tokens[place]}:
            return False
    return len(wanted) == len(tokens)
