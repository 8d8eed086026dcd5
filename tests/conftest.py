"""What all tests share: the brokers of the lab."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.brokers.plugin"]

# A busy machine must not fail a test of what code does: its time is measured elsewhere.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")
