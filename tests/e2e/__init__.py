"""The real command line in real processes."""

import pytest

pytest.register_assert_rewrite("tests.e2e.on_brokers", "tests.e2e.project")
