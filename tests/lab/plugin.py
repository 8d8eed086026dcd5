"""Fixtures: the brokers, shared by all tests of a run (Kafka: of a file) and started when first asked for.

A test may break the broker it got; afterwards every broker is made to run again. Channels are never shared: take
their names from `unique_name`. Where a machine cannot have a broker, its tests are skipped with the reason, also in
the summary; with CI=true they fail. A broker of somebody else (``HEXA_TEST_KAFKA=...``) is used instead of ours, and
tests that would break it are skipped.
"""

import os
import secrets
from collections.abc import Callable, Generator, Iterator

import pytest

from tests.lab.base import Broker
from tests.lab.errors import BrokerUnavailableError, NotOurBrokerError
from tests.lab.lab import Lab
from tests.lab.proxy import Proxy

_LAB = pytest.StashKey[Lab]()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare a lab without brokers."""
    config.stash[_LAB] = Lab()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the brokers; those of a run that is killed are ended by the kernel."""
    config.stash[_LAB].close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a test that wants to break a broker that is not ours."""
    try:
        return (yield)
    except NotOurBrokerError as error:
        pytest.skip(str(error))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Repair what the test did to the brokers."""
    item.config.stash[_LAB].heal()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which brokers were missing, and why."""
    missing = config.stash[_LAB].unavailable
    if missing:
        terminalreporter.section("brokers not available")
        for name, reason in sorted(missing.items()):
            terminalreporter.write_line(f"{name}: {reason}")


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Lab:
    """The brokers of this run."""
    return pytestconfig.stash[_LAB]


@pytest.fixture(scope="session")
def get_broker(lab: Lab) -> Callable[[str], Broker]:
    """Function that gives the running broker of a name (see `tests.lab.lab`), secure ones, too."""

    def get(name: str) -> Broker:
        try:
            return lab.get(name)
        except BrokerUnavailableError as error:
            reason = f"{name} is not available: {error}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)

    return get


@pytest.fixture(scope="module")
def kafka(get_broker: Callable[[str], Broker], lab: Lab) -> Iterator[Broker]:
    """Kafka, newest. Each file has one of its own: with the thousands of partitions of the conformance suite a killed
    node needs minutes to come back."""
    yield get_broker("kafka")
    lab.drop("kafka")


@pytest.fixture(scope="module")
def kafka39(get_broker: Callable[[str], Broker], lab: Lab) -> Iterator[Broker]:
    """Kafka, the older line; as `kafka`."""
    yield get_broker("kafka39")
    lab.drop("kafka39")


@pytest.fixture(scope="session")
def nats(get_broker: Callable[[str], Broker]) -> Broker:
    """NATS, newest."""
    return get_broker("nats")


@pytest.fixture(scope="session")
def nats29(get_broker: Callable[[str], Broker]) -> Broker:
    """NATS, the oldest that is supported."""
    return get_broker("nats29")


@pytest.fixture(scope="session")
def pulsar(get_broker: Callable[[str], Broker]) -> Broker:
    """Pulsar."""
    return get_broker("pulsar")


@pytest.fixture(scope="session")
def redis(get_broker: Callable[[str], Broker]) -> Broker:
    """Redis."""
    return get_broker("redis")


@pytest.fixture(scope="session")
def postgres(get_broker: Callable[[str], Broker]) -> Broker:
    """PostgreSQL."""
    return get_broker("postgres")


@pytest.fixture
def open_proxy() -> Iterator[Callable[[Broker], Proxy]]:
    """Function that opens the proxy of a broker for this test; clients take `Broker.proxied_address`."""
    opened: list[Proxy] = []

    def open_one(broker: Broker) -> Proxy:
        opened.append(broker.open_proxy())
        return opened[-1]

    yield open_one
    for proxy in opened:
        proxy.close()


@pytest.fixture
def unique_name() -> Callable[..., str]:
    """Function that makes a name nobody else uses: lower-case letters, digits and dashes, good on every broker."""

    def make(stem: str = "channel") -> str:
        return f"{stem}-{secrets.token_hex(4)}"

    return make
