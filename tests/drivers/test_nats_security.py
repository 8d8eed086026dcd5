"""TLS and login against real secured servers: each thing that is wrong has one clear error, without the secret."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from hexa_worker.config.nats import NatsStream, NatsTls
from hexa_worker.config.secret import Secret
from hexa_worker.core.message import Message
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.settlement import Acked
from hexa_worker.errors import ConfigError, DriverError, DriverRejected, DriverUnavailable
from tests.drivers.consuming import publish, spec, subscribed, take
from tests.drivers.foreign_producers import CANARY, clear_line, greeting, nobody
from tests.drivers.nats_tools import opened
from tests.lab.base import Broker
from tests.lab.logins import FORBIDDEN, LIMITED, LIMITED_PASSWORD, PASSWORD, TOKEN, USER
from tests.lab.nats import Nats as Server

pytestmark = [pytest.mark.nats, pytest.mark.anyio]
Name = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def get(get_broker: Callable[[str], Broker], lab: Any) -> Iterator[Callable[[str], Server]]:
    used: list[str] = []

    def one(name: str) -> Server:
        used.append(name)
        return cast("Server", get_broker(name))

    yield one
    for name in used:
        lab.drop(name)


def trusting(server: Server, **more: Any) -> NatsTls:
    return NatsTls(ca_file=str(server.certificates.ca), **more)


async def round_trip(server: Server, name: str, **security: Any) -> None:
    async with opened(server.address, **security) as driver, subscribed(driver, spec(name)) as source:
        await publish(driver, f"{name}.in", b"x")
        assert [one.payload for one in await take(source, 1)] == [b"x"]


async def failure(address: str, **security: Any) -> DriverError:
    with pytest.raises(DriverError) as caught:
        async with opened(address, timeout_s=4.0, **security):
            pass
    text = clear_line(caught.value)
    assert address.partition("//")[2] in text
    return caught.value


@pytest.mark.parametrize("name", ["nats-users", "nats29-users"])
async def test_a_password_and_an_nkey_log_in(
    get: Callable[[str], Server], unique_name: Name, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = get(name)
    tls = trusting(server)
    await round_trip(server, unique_name(), tls=tls, user=USER, password=Secret(PASSWORD))
    await round_trip(server, unique_name(), tls=tls, nkey_file=str(server.nkey_seed))
    caplog.set_level("DEBUG", logger="hexa_worker")
    error = await failure(server.address, tls=tls, user=USER, password=Secret(CANARY))
    assert isinstance(error, DriverRejected)
    assert "login" in str(error)
    assert CANARY not in caplog.text
    assert isinstance(await failure(server.address, tls=tls), DriverRejected)


async def test_a_token_logs_in_and_a_wrong_one_does_not(get: Callable[[str], Server], unique_name: Name) -> None:
    server = get("nats-token")
    await round_trip(server, unique_name(), tls=trusting(server), token=Secret(TOKEN))
    error = await failure(server.address, tls=trusting(server), token=Secret(CANARY))
    assert isinstance(error, DriverRejected)
    assert "login" in str(error)


async def test_credentials_log_in_and_a_strangers_do_not(get: Callable[[str], Server], unique_name: Name) -> None:
    server = get("nats-creds")
    await round_trip(server, unique_name(), tls=trusting(server), creds_file=str(server.credentials))
    error = await failure(server.address, tls=trusting(server), creds_file=str(server.stranger_credentials))
    assert isinstance(error, DriverRejected)
    assert "login" in str(error)


async def test_a_client_certificate_opens_what_asks_for_one(get: Callable[[str], Server], unique_name: Name) -> None:
    server = get("nats-mtls")
    own = server.certificates.client
    await round_trip(server, unique_name(), tls=trusting(server, cert_file=str(own.cert), key_file=str(own.key)))
    error = await failure(server.address, tls=trusting(server))
    assert "TLS" in str(error)


@pytest.mark.parametrize(
    ("name", "ca", "words"),
    [
        ("nats-users", "other_ca", "certificate is not trusted"),
        ("nats-expired", "ca", "expired"),
        ("nats-wrong-host", "ca", "not valid for"),
    ],
)
async def test_a_bad_certificate_is_refused_by_name(
    get: Callable[[str], Server], name: str, ca: str, words: str
) -> None:
    server = get(name)
    error = await failure(server.address, tls=NatsTls(ca_file=str(getattr(server.certificates, ca))))
    assert isinstance(error, DriverRejected)
    assert words in str(error)


async def test_without_a_table_the_machines_authorities_are_asked(get: Callable[[str], Server]) -> None:
    server = get("nats-users")
    plain = server.address.replace("tls:", "nats:")
    assert isinstance(await failure(plain, user=USER, password=Secret(PASSWORD)), DriverRejected)


async def test_insecure_takes_any_certificate_and_says_so(
    get: Callable[[str], Server], unique_name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    await round_trip(get("nats-expired"), unique_name(), tls=NatsTls(insecure=True))
    assert "insecure" in caplog.text


async def test_missing_rights_on_one_channel_refuse_that_channel_alone(
    get: Callable[[str], Server], unique_name: Name
) -> None:
    server = get("nats-users")
    closed, free = f"{FORBIDDEN}.{unique_name()}", unique_name()
    async with opened(server.address, tls=trusting(server), user=USER, password=Secret(PASSWORD)) as driver:
        await publish(driver, closed, b"x")
        await publish(driver, free, b"x")
    limited = {"user": LIMITED, "password": Secret(LIMITED_PASSWORD), "timeout_s": 2.0}
    async with opened(server.address, tls=trusting(server), **limited) as driver:
        answers = await driver.publish([Message(channel=name, payload=b"y") for name in (closed, free)])
        assert isinstance(answers[0], DriverRejected)
        assert closed in str(answers[0])
        assert isinstance(answers[1], str)


@pytest.mark.parametrize("order_by", [OrderBy.NONE, OrderBy.KEY])
async def test_a_login_that_may_not_acknowledge_is_told_so_and_nothing_counts_as_settled(
    get: Callable[[str], Server], unique_name: Name, order_by: OrderBy
) -> None:
    server = get("nats-users")
    name, kept = unique_name(), NatsStream(name=f"{FORBIDDEN}-acks", subjects=("acks.>",))
    one = spec(name, channels=(f"acks.{name}",), order_by=order_by)
    more: dict[str, Any] = {"tls": trusting(server), "streams": (kept,)}
    async with opened(server.address, user=USER, password=Secret(PASSWORD), **more) as driver:
        await driver.declare([one])
        await publish(driver, one.channels[0], b"x")
    async with (
        opened(server.address, user=LIMITED, password=Secret(LIMITED_PASSWORD), **more) as driver,
        subscribed(driver, one) as source,
    ):
        if order_by is OrderBy.NONE:
            (unsettled,) = await source.settle([Acked(each) for each in await take(source, 1)])
            error: DriverError = unsettled.error
        else:
            with pytest.raises(DriverRejected) as caught:
                await take(source, 1)
            error = caught.value
    assert isinstance(error, DriverRejected)
    assert "may not publish" in str(error)


async def test_nobody_there_is_unavailable_with_the_address() -> None:
    error = await failure(f"nats://{nobody()}")
    assert isinstance(error, DriverUnavailable)


async def test_a_port_that_speaks_something_else_is_named() -> None:
    with greeting() as address:
        error = await failure(f"nats://{address}")
    assert "does not speak NATS" in str(error)


@pytest.mark.parametrize("more", [{"tls": NatsTls(ca_file="/nowhere/ca.pem")}, {"creds_file": "/nowhere/x.creds"}])
async def test_files_that_cannot_be_read_are_configuration_errors(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"ca_file|creds_file"):
        async with opened("nats://127.0.0.1:1", **more):
            pass
