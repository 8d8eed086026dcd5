"""TLS and login against a real secured broker: each thing that is wrong has one clear error, without the secret."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from hexa_worker.config.pulsar import PulsarTls
from hexa_worker.config.secret import Secret
from hexa_worker.core.message import Message
from hexa_worker.errors import ConfigError, DriverError, DriverRejected, DriverUnavailable
from tests.drivers.consuming import ack, publish, spec, subscribed, take
from tests.drivers.foreign_producers import CANARY, clear_line, greeting, nobody
from tests.drivers.pulsar_tools import opened, options
from tests.lab.base import Broker
from tests.lab.proxy import Proxy
from tests.lab.pulsar import Pulsar

pytestmark = [pytest.mark.pulsar, pytest.mark.anyio, pytest.mark.slow]
Name = Callable[..., str]
GetBroker = Callable[[str], Broker]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def node(get_broker: GetBroker, lab: Any) -> Iterator[Pulsar]:
    yield cast("Pulsar", get_broker("pulsar-secure"))
    lab.drop("pulsar-secure")


async def round_trip(node: Pulsar, name: str, **more: Any) -> None:
    async with opened(options(node, **more)) as driver, subscribed(driver, spec(name)) as source:
        await publish(driver, f"{name}.in", b"x")
        taken = await take(source, 1)
        assert [one.payload for one in taken] == [b"x"]
        await ack(source, taken)
        assert (await source.backlog()).idle
        assert f"{name}.in" in await driver.channels()


async def failure(node: Broker, **more: Any) -> DriverError:
    with pytest.raises(DriverError) as caught:
        async with opened(options(node, **{"timeout_s": 3.0, **more})) as driver:
            await driver.publish([Message(channel="any", payload=b"x")])
    clear_line(caught.value)
    return caught.value


def trusting(node: Pulsar) -> PulsarTls:
    return PulsarTls(ca_file=str(node.certificates.ca))


async def test_a_token_works_with_and_without_tls(node: Pulsar, unique_name: Name) -> None:
    token = Secret(node.token())
    await round_trip(node, unique_name(), token=token)
    await round_trip(
        node, unique_name(), token=token, url=node.tls_address, admin_url=node.tls_admin_address, tls=trusting(node)
    )


async def test_a_token_file_works(node: Pulsar, unique_name: Name, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(node.token() + "\n")
    await round_trip(node, unique_name(), token_file=str(file))


async def test_a_client_certificate_works(node: Pulsar, unique_name: Name) -> None:
    own = node.certificates.client
    tls = PulsarTls(ca_file=str(node.certificates.ca), cert_file=str(own.cert), key_file=str(own.key))
    await round_trip(node, unique_name(), url=node.tls_address, admin_url=node.tls_admin_address, tls=tls)


async def test_a_wrong_token_is_refused_without_showing_it(node: Pulsar, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="hexa_worker")
    for token in (CANARY, node.token(secret=b"another secret of thirty-two byte")):
        error = await failure(node, token=Secret(token))
        assert isinstance(error, DriverRejected)
        assert "login" in str(error)
        assert token not in str(error) + caplog.text


async def test_no_login_is_refused(node: Pulsar) -> None:
    error = await failure(node)
    assert isinstance(error, DriverRejected)
    assert "login" in str(error)


async def test_missing_rights_refuse_the_topic(node: Pulsar, unique_name: Name) -> None:
    token = Secret(node.token("nobody"))
    async with opened(options(node, token=token)) as driver:
        (answer,) = await driver.publish([Message(channel=unique_name(), payload=b"x")])
        assert isinstance(answer, DriverRejected)
        assert "rights" in str(answer)
        with pytest.raises(DriverRejected, match="rights"):
            await driver.subscribe(spec(unique_name()))


async def test_an_unknown_authority_is_refused_by_name(node: Pulsar) -> None:
    tls = PulsarTls(ca_file=str(node.certificates.other_ca))
    error = await failure(node, url=node.tls_address, tls=tls, token=Secret(node.token()))
    assert isinstance(error, DriverRejected)
    assert "not trusted" in str(error)


@pytest.mark.parametrize(("kind", "words"), [("expired", "expired"), ("wrong-host", "not valid for")])
async def test_a_bad_certificate_is_refused_by_name(node: Pulsar, kind: str, words: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = node.certificates.server_pair(kind)
    context.load_cert_chain(pair.cert, pair.key)
    with Proxy(("127.0.0.1", node.port("client")), tls=context).start() as proxy:
        url = f"pulsar+ssl://127.0.0.1:{proxy.port}"
        error = await failure(node, url=url, tls=trusting(node), token=Secret(node.token()))
    assert isinstance(error, DriverRejected)
    assert words in str(error)
    assert str(proxy.port) in str(error)


async def test_insecure_takes_any_authority_and_says_so(
    node: Pulsar, unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    more: dict[str, Any] = {"url": node.tls_address, "admin_url": node.tls_admin_address}
    await round_trip(node, unique_name(), **more, tls=PulsarTls(insecure=True), token=Secret(node.token()))
    assert "insecure" in caplog.text


async def test_tls_to_a_plain_port_and_plain_to_a_tls_port_are_named(node: Pulsar) -> None:
    tls = await failure(node, url=f"pulsar+ssl://127.0.0.1:{node.port('client')}", tls=trusting(node))
    assert "TLS" in str(tls)
    plain = await failure(node, url=f"pulsar://127.0.0.1:{node.port('tls')}")
    assert "TLS" in str(plain)


async def test_nobody_there_is_unavailable_with_the_address() -> None:
    address = nobody()
    error = await failure(cast("Broker", _Nowhere), url=f"pulsar://{address}")
    assert isinstance(error, DriverUnavailable)
    assert address in str(error)


class _Nowhere:
    address = "pulsar://127.0.0.1:1"
    admin_address = "http://127.0.0.1:1"


async def test_a_port_that_speaks_something_else_is_named() -> None:
    with greeting() as address:
        error = await failure(cast("Broker", _Nowhere), url=f"pulsar://{address}")
    assert isinstance(error, DriverRejected)
    assert "does not speak Pulsar" in str(error)


@pytest.mark.parametrize(
    "more",
    [
        {"tls": PulsarTls(ca_file="/nowhere/ca.pem")},
        {"tls": PulsarTls(cert_file="/nowhere/cert.pem", key_file="/nowhere/key.pem")},
        {"token_file": "/nowhere/token"},
    ],
)
async def test_files_that_cannot_be_read_are_configuration_errors(node: Pulsar, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        async with opened(options(node, url=node.tls_address, **more)):
            pass
