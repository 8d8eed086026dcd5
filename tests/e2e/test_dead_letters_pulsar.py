"""Dead letters on Pulsar."""

from collections.abc import Callable

import pytest

from tests.e2e.dead_letters_on_brokers import (  # noqa: F401 - the claims
    test_a_redrive_that_is_killed_before_it_removes_is_run_again_without_doubles,
    test_copies_that_were_handled_meanwhile_are_not_sent_again,
    test_exported_letters_come_back_byte_for_byte_and_never_twice,
    test_letters_are_listed_shown_and_redriven_by_id_fingerprint_action_and_age,
    test_what_still_fails_is_withheld_and_a_hook_mends_it,
)
from tests.e2e.on_brokers import Place
from tests.lab.base import Broker

pytestmark = pytest.mark.pulsar


@pytest.fixture
def place(pulsar: Broker, unique_name: Callable[..., str]) -> Place:
    broker = f'driver = "pulsar"\nadmin_url = "{pulsar.admin_address}"\nurl = "{pulsar.address}"'
    return Place(broker, "", unique_name("e"), "subscription")
