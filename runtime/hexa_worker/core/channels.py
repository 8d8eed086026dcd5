"""The names of the channels that belong to one subscription (hexa-event's scheme)."""


def retry_channel(base: str, number: int) -> str:
    """The channel of retry `number` (1-based)."""
    return f"{base}.retry.{number}"


def retry_channels(base: str, count: int) -> tuple[str, ...]:
    """All retry channels, in order of their number."""
    return tuple(retry_channel(base, number) for number in range(1, count + 1))


def dead_letter_channel(base: str) -> str:
    """The channel that keeps the dead letters."""
    return f"{base}.dlq"


def is_retry_channel(base: str, channel: str) -> bool:
    """Whether `channel` is a retry channel of `base`."""
    prefix = retry_channel(base, 0)[:-1]
    return channel.startswith(prefix) and channel[len(prefix) :].isdecimal()
