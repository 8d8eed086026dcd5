"""TLS and login against a real secured node: each thing that is wrong has one clear error, without the secret."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from hexa_worker.config.kafka import KafkaSasl, KafkaTls
from hexa_worker.config.secret import Secret
from hexa_worker.core.message import Message
from hexa_worker.errors import ConfigError, DriverError, DriverRejected, DriverUnavailable
from tests.drivers.consuming import publish, subscribed, take
from tests.drivers.foreign_producers import CANARY, clear_line, greeting, nobody
from tests.drivers.kafka_tools import opened, spec
from tests.lab.base import Broker
from tests.lab.kafka import Kafka, unsecured_token
from tests.lab.logins import FORBIDDEN, LIMITED, LIMITED_PASSWORD, PASSWORD, USER

pytestmark = [pytest.mark.kafka, pytest.mark.anyio]
Name = Callable[..., str]
GetBroker = Callable[[str], Broker]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def node(get_broker: GetBroker, lab: Any) -> Iterator[Kafka]:
    yield cast("Kafka", get_broker("kafka-secure"))
    lab.drop("kafka-secure")


def login(mechanism: str = "SCRAM-SHA-512", user: str = USER, password: str = PASSWORD) -> KafkaSasl:
    return KafkaSasl(mechanism=mechanism, username=user, password=Secret(password))  # type: ignore[arg-type]


async def round_trip(address: str, name: str, **security: Any) -> None:
    async with opened(address, **security) as driver, subscribed(driver, spec(name)) as source:
        await publish(driver, f"{name}.in", b"x")
        assert [one.payload for one in await take(source, 1)] == [b"x"]


async def failure(address: str, **security: Any) -> DriverError:
    with pytest.raises(DriverError) as caught:
        async with opened(address, timeout_s=4.0, **security):
            pass
    clear_line(caught.value)
    return caught.value


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_logins_with_a_password_work_with_and_without_tls(node: Kafka, unique_name: Name, mechanism: str) -> None:
    await round_trip(node.listener("sasl"), unique_name(), sasl=login(mechanism))
    tls = KafkaTls(ca_file=str(node.certificates.ca))
    await round_trip(node.listener("sasl-ssl"), unique_name(), sasl=login(mechanism), tls=tls)


async def test_a_token_file_is_read_at_each_login(node: Kafka, unique_name: Name, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(unsecured_token(USER) + "\n")
    await round_trip(
        node.listener("sasl"), unique_name(), sasl=KafkaSasl(mechanism="OAUTHBEARER", token_file=str(file))
    )


async def test_a_client_certificate_opens_what_asks_for_one(node: Kafka, unique_name: Name) -> None:
    own = node.certificates.client
    tls = KafkaTls(ca_file=str(node.certificates.ca), cert_file=str(own.cert), key_file=str(own.key))
    async with opened(node.listener("mtls"), tls=tls) as driver:
        assert "SSL" in (await driver.inspect())["security"]
    missing = await failure(node.listener("mtls"), tls=KafkaTls(ca_file=str(node.certificates.ca)))
    assert isinstance(missing, DriverError)


@pytest.mark.parametrize(
    ("listener", "ca", "words"),
    [
        ("ssl", "other_ca", "certificate was refused"),
        ("expired", "ca", "expired"),
        ("wrong-host", "ca", "certificate is not valid for"),
    ],
)
async def test_a_bad_certificate_is_refused_by_name(node: Kafka, listener: str, ca: str, words: str) -> None:
    address = node.listener(listener)
    error = await failure(address, tls=KafkaTls(ca_file=str(getattr(node.certificates, ca))))
    assert isinstance(error, DriverRejected)
    assert address in str(error)
    assert words in str(error)


async def test_insecure_takes_any_certificate_and_says_so(
    node: Kafka, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(node.listener("expired"), tls=KafkaTls(insecure=True)):
        pass
    assert "insecure" in caplog.text


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_a_wrong_password_is_refused_without_showing_it(
    node: Kafka, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="hexa_worker")
    error = await failure(node.listener("sasl"), sasl=login(mechanism, password=CANARY))
    assert isinstance(error, DriverRejected)
    assert "login" in str(error)
    assert CANARY not in caplog.text
    assert CANARY not in repr(login(mechanism, password=CANARY))


async def test_missing_rights_on_one_topic_refuse_that_topic_alone(node: Kafka, unique_name: Name) -> None:
    async with opened(node.listener("sasl"), sasl=login("PLAIN")) as driver:
        closed, free = f"{FORBIDDEN}-{unique_name()}", unique_name()
        await publish(driver, closed, b"x")
        await publish(driver, free, b"x")
    limited = login("PLAIN", LIMITED, LIMITED_PASSWORD)
    async with opened(node.listener("sasl"), sasl=limited) as driver:
        answers = await driver.publish([Message(channel=name, payload=b"y") for name in (closed, free)])
    assert isinstance(answers[0], DriverRejected)
    assert isinstance(answers[1], str)
    assert closed in str(answers[0])


async def test_missing_rights_on_the_group_are_an_error_and_no_silence(node: Kafka, unique_name: Name) -> None:
    limited = login("PLAIN", LIMITED, LIMITED_PASSWORD)
    one = spec(unique_name(), group=f"{FORBIDDEN}-{unique_name()}")
    async with opened(node.listener("sasl"), sasl=limited) as driver:
        with pytest.raises(DriverRejected, match="group"):
            async with subscribed(driver, one) as source:
                await source.receive(1, 1000)


async def test_tls_to_a_plain_port_and_plain_to_a_tls_port_are_told_apart(node: Kafka) -> None:
    tls = await failure(node.listener("client"), tls=KafkaTls(ca_file=str(node.certificates.ca)))
    assert "TLS" in str(tls)
    plain = await failure(node.listener("ssl"))
    assert "TLS" in str(plain)


async def test_nobody_there_is_unavailable_with_the_address() -> None:
    address = nobody()
    error = await failure(address)
    assert isinstance(error, DriverUnavailable)
    assert address in str(error)


async def test_a_port_that_speaks_something_else_is_named() -> None:
    with greeting() as address:
        error = await failure(address)
    assert "Kafka" in str(error)


@pytest.mark.parametrize(
    "tls",
    [
        KafkaTls(ca_file="/nowhere/ca.pem"),
        KafkaTls(cert_file="/nowhere/cert.pem"),
    ],
)
async def test_files_that_cannot_be_read_are_configuration_errors(tls: KafkaTls) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        async with opened("127.0.0.1:1", tls=tls):
            pass
