"""The command line on Kafka."""

from collections.abc import Callable

import pytest

from tests.brokers.base import Broker
from tests.e2e.on_brokers import (  # noqa: F401 - the claims
    Place,
    free_port,
    test_a_broker_that_is_away_is_one_line_and_exit_code_1,
    test_a_payload_that_is_too_large_is_one_line_and_the_worker_never_sees_it,
    test_a_second_sigterm_cancels_and_the_event_comes_again,
    test_a_worker_waits_for_a_broker_that_is_away_says_so_once_and_can_be_stopped,
    test_check_connect_shows_the_broker_and_what_a_worker_would_make,
    test_events_are_emitted_handled_retried_dead_lettered_traced_and_counted,
    test_lag_disturbs_no_worker_and_a_drain_lets_handlers_end,
)

pytestmark = pytest.mark.kafka


@pytest.fixture
def place(kafka: Broker, unique_name: Callable[..., str]) -> Place:
    broker = 'driver = "kafka"\ncreate_channels = true\nservers = ["{}"]'
    return Place(broker.format(kafka.address), broker.format(f"127.0.0.1:{free_port()}"), unique_name("e"), "group")
