"""Emitting on Pulsar."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.emitting.on_brokers import (  # noqa: F401 - the claims
    Web,
    test_a_request_is_answered_by_a_worker,
    test_of_many_emits_at_once_few_are_under_way_and_the_others_wait_for_room,
    test_threads_emit_through_one_synchronous_emitter,
    test_what_an_async_application_emits_is_confirmed_and_says_who_asked_for_it,
    web_service,
)
from tests.lab.base import Broker

pytestmark = pytest.mark.pulsar


@pytest.fixture
def web(tmp_path: Path, pulsar: Broker, unique_name: Callable[..., str]) -> Web:
    return web_service(
        tmp_path,
        f'driver = "pulsar"\nadmin_url = "{pulsar.admin_address}"\nurl = "{pulsar.address}"',
        unique_name("web"),
    )
