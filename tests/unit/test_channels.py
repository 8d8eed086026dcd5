"""The names of retry channels and dead letters, made and read in one place."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hexa_worker
from hexa_worker.core.channels import Rung, dead_letter_channel, parse, retry_channel
from hexa_worker.drivers.base import SubscriptionSpec


@given(st.text(), st.integers(1, 10**9 - 1))
def test_what_is_made_is_read(base: str, number: int) -> None:
    assert parse(retry_channel(base, number)) == Rung(base, number)
    assert parse(dead_letter_channel(base)) == Rung(base, 0)


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


def test_no_driver_spells_such_a_name_itself() -> None:
    spelled = re.compile(r'\{\w+\}\.(dlq"|retry\.\{)|endswith\("\.(dlq|retry)')
    package = Path(hexa_worker.__file__).parent
    found = [
        f"{path.name}: {line.strip()}"
        for path in (package / "drivers").rglob("*.py")
        for line in path.read_text().splitlines()
        if spelled.search(line) and "removesuffix" not in line
    ]
    assert found == []
