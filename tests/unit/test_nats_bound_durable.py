"""Durables that others made: which a subscription can read through, and what becomes of their settings."""

from pathlib import Path
from typing import Any

import pytest

from hexa_worker.config.load import load_config
from hexa_worker.drivers.nats.bound_durable import fitted, problems
from hexa_worker.errors import ConfigError

FITS: dict[str, Any] = {
    "durable_name": "billing",
    "ack_policy": "explicit",
    "replay_policy": "instant",
    "filter_subject": "orders",
    "max_deliver": -1,
}


@pytest.mark.parametrize(
    ("changed", "subjects"),
    [
        ({}, ["orders", "other"]),
        ({"filter_subject": None, "filter_subjects": ["orders"]}, ["orders", "other"]),
        ({"filter_subject": ""}, ["orders"]),
        ({"max_deliver": 3, "backoff": [1], "deliver_policy": "new"}, ["orders"]),
    ],
)
def test_one_that_delivers_the_channel_and_nothing_else_can_be_read_through(
    changed: dict[str, Any], subjects: list[str]
) -> None:
    assert problems({**FITS, **changed}, "orders", subjects) == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ack_policy": "none"}, "ack_policy is 'none', wanted 'explicit'"),
        ({"replay_policy": "original"}, "replay_policy is 'original', wanted 'instant'"),
        ({"filter_subject": "other"}, "it delivers other, wanted orders alone"),
        ({"filter_subject": "orders.>"}, "it delivers orders.>, wanted orders alone"),
        ({"filter_subject": None}, "it delivers orders, other, wanted orders alone"),
        ({"filter_subject": None, "filter_subjects": ["a", "b"]}, "it delivers a, b, wanted orders alone"),
        ({"deliver_subject": "x"}, "it pushes, wanted one that is pulled from"),
        ({"priority_groups": ["a"]}, "it has priority groups, wanted none"),
        ({"headers_only": True}, "it delivers headers only"),
    ],
)
def test_one_that_delivers_or_acknowledges_otherwise_cannot(changed: dict[str, Any], reason: str) -> None:
    assert problems({**FITS, **changed}, "orders", ["orders", "other"]) == [reason]


def test_what_fits_stays_as_it_is_but_for_limits() -> None:
    assert fitted(FITS) == FITS
    metadata = {**FITS, "metadata": {"owner": "them"}}
    assert fitted({**metadata, "max_deliver": 5, "backoff": [1], "max_batch": 10, "inactive_threshold": 1}) == metadata


def test_where_it_begins_is_said_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(
        '[worker]\nname = "a"\nhandlers = ["h"]\n[broker]\ndriver = "nats"\n'
        '[subscriptions.bill.nats]\ndurable = "billing"\nstart_sequence = 3\n'
    )
    with pytest.raises(ConfigError, match=r"bill\.nats.*only one of durable, start_at and start_sequence"):
        load_config(path)
