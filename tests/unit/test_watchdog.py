"""The watchdog is shorter than what the broker allows a silent process."""

from pathlib import Path

import pytest

from hexa_worker.config.load import parse_config
from hexa_worker.config.watchdog import watchdog_s


@pytest.mark.parametrize(
    ("toml", "seconds", "key"),
    [
        ('broker.driver = "kafka"', 7.0, ""),
        ('broker.driver = "kafka"\nbroker.session_timeout_s = 45', 30.0, ""),
        ('broker.driver = "kafka"\nworker.watchdog_s = 5', 5.0, ""),
        ('broker.driver = "kafka"\nworker.watchdog_s = 30', 7.0, "broker.session_timeout_s = 10"),
        ('broker.driver = "nats"', 21.0, ""),
        (
            'broker.driver = "nats"\nworker.watchdog_s = 20\nsubscriptions.do.nats.ack_wait_s = 10',
            7.0,
            "subscriptions.do.nats.ack_wait_s = 10",
        ),
        ('broker.driver = "embedded"\nbroker.lease_s = 10', 7.0, ""),
        ('broker.driver = "embedded"\nworker.watchdog_s = 22', 21.0, "broker.lease_s = 30"),
        ('broker.driver = "pulsar"', 30.0, ""),
        ('broker.driver = "memory"\nworker.watchdog_s = 3600', 3600.0, ""),
    ],
)
def test_it_is_seven_tenths_of_that_at_most_and_a_longer_one_is_told(toml: str, seconds: float, key: str) -> None:
    config = parse_config(f'worker.name = "w"\nworker.handlers = ["h"]\n{toml}\n', Path("worker.toml"))
    found, warning = watchdog_s(config.file)
    assert found == pytest.approx(seconds)
    assert bool(warning) == bool(key)
    assert key in warning
