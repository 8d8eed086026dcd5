"""What all tests share: the brokers of the lab."""

pytest_plugins = ["tests.brokers.plugin"]
