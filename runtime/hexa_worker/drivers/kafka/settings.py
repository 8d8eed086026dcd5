"""What the settings of topics do to retries and dead letters that are written there. Pure: `Topics` asks for them."""

from collections.abc import Iterable, Mapping

Settings = Mapping[str, str]
"""Of one topic, by name: those in `NAMES`, as far as they are known."""

POLICY, SIZE, CLOCK, BYTES, AGE = (
    "cleanup.policy",
    "max.message.bytes",
    "message.timestamp.type",
    "retention.bytes",
    "retention.ms",
)
NAMES = (POLICY, SIZE, CLOCK, BYTES, AGE)
ROOM = 512 * 1024
"""Retry and dead-letter topics take records so much larger than the largest payload: a failure is written on them."""
LARGEST = 2**31 - 1
_MARGIN_MS = 60_000
"""So long a retry may be late."""


def wanted_size(max_payload: int, channels: Iterable[Settings]) -> int:
    """How large the records of retry and dead-letter topics should be allowed to be."""
    return min(largest_record(max_payload, channels) + ROOM, LARGEST)


def largest_record(max_payload: int, channels: Iterable[Settings]) -> int:
    """How large the records are that may have to be stored again.

    Args:
        max_payload: of what is published.
        channels: the settings of what is read.
    """
    return max([max_payload, *(int(one[SIZE]) for one in channels if SIZE in one)])


def problem_of(settings: Settings, name: str, server: str) -> str:
    """Why a retry or dead-letter topic is of no use as it is; empty: it is."""
    if "compact" not in settings.get(POLICY, ""):
        return ""
    return (
        f"{POLICY}={settings[POLICY]}: it takes no records without a key, and keeps only the last of each key: "
        f"{_command(server, name, POLICY, 'delete')}"
    )


def warning_of(settings: Settings, name: str, server: str, *, largest: int, delay_ms: int | None) -> str:
    """What a retry or dead-letter topic would lose, and the command that mends it; empty: nothing.

    Args:
        settings: the topic's.
        name: the topic's.
        server: of the commands.
        largest: see `largest_record`.
        delay_ms: how long retries wait in it; None: it keeps dead letters.
    """
    said = []
    if int(settings.get(SIZE, LARGEST)) < largest:
        size = _command(server, name, SIZE, str(min(largest + ROOM, LARGEST)))
        said.append(f"it takes records of {settings[SIZE]} bytes, and there may be some of {largest}: {size}")
    if delay_ms is not None and 0 <= int(settings.get(AGE, -1)) < delay_ms + _MARGIN_MS:
        age = _command(server, name, AGE, str(2 * delay_ms + 86_400_000))
        said.append(f"{AGE}={settings[AGE]}: retries are gone before their time, which is after {delay_ms} ms: {age}")
    if int(settings.get(BYTES, -1)) >= 0:
        kept = _command(server, name, BYTES, "-1")
        said.append(f"{BYTES}={settings[BYTES]}: the oldest are gone once there is more of them: {kept}")
    return "; ".join(said)


def note_of(settings: Settings) -> str:
    """What else is worth knowing of a retry or dead-letter topic; empty: nothing."""
    return "stamped by the brokers' clock" if settings.get(CLOCK) == "LogAppendTime" else ""


def _command(server: str, name: str, setting: str, value: str) -> str:
    return (
        f"kafka-configs.sh --bootstrap-server {server} --alter --entity-type topics --entity-name {name} "
        f"--add-config {setting}={value}"
    )
