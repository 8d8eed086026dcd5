"""The actors, on brokers in memory."""

import pytest

pytest.register_assert_rewrite("tests.actors.virtual_worker", "tests.actors.weak_drivers")
