"""Tests of single drivers, beyond what the conformance suite claims of all."""

import pytest

pytest.register_assert_rewrite(*[f"tests.drivers.{name}" for name in ("consuming", "doomed", "outages", "strangers")])
