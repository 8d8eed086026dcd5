"""The names of retry channels and dead letters, made and read in one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.channels import Rung, base_of, dead_letter_channel, is_dead_letter_channel, parse, retry_channel
from hexa_worker.drivers.base import SubscriptionSpec


@given(st.text(), st.integers(1, 10**9 - 1))
def test_what_is_made_is_read(base: str, number: int) -> None:
    assert parse(retry_channel(base, number)) == Rung(base, number)
    assert parse(dead_letter_channel(base)) == Rung(base, 0)
    assert base_of(retry_channel(base, number)) == base_of(dead_letter_channel(base)) == base
    assert is_dead_letter_channel(dead_letter_channel(base))
    assert not is_dead_letter_channel(retry_channel(base, number))


@pytest.mark.parametrize(
    "channel",
    [
        "",
        "orders",
        "retry.1",
        "dlq",
        "a.retry.",
        "a.retry.x",
        "a.retry.\u0661",
        "a.retry.0",
        "a.retry.1.b",
        f"a.retry.{'1' * 5_000}",
    ],
)
def test_any_other_name_is_neither(channel: str) -> None:
    assert parse(channel) is None
    assert base_of(channel) == channel
    assert not is_dead_letter_channel(channel)


@pytest.mark.parametrize(
    ("channels", "pattern", "read"),
    [
        (("b", "new"), None, ("b", "new")),
        ((), ".*", ("b", "a", "else.dlq")),
        ((), "[ab]", ("b", "a")),
    ],
    ids=["by name", "all but its own retries and dead letters", "the whole name matches"],
)
def test_a_subscription_reads_its_channels_or_those_that_match_its_pattern(
    channels: tuple[str, ...], pattern: str | None, read: tuple[str, ...]
) -> None:
    spec = SubscriptionSpec(action="do", group="do", channels=channels, pattern=pattern, retry_base="do", retry_count=1)
    assert spec.channels_among(["b", "a", "else.dlq", "do.retry.1", "do.dlq"]) == read
