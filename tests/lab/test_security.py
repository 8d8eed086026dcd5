"""The secured brokers let the right clients in, and show everybody else the door."""

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import aiokafka
import aiokafka.abc
import aiokafka.admin
import aiokafka.errors
import nats
import nats.errors
import psycopg
import pulsar
import pytest
import redis

from tests.lab.base import Broker
from tests.lab.certs import Certificates
from tests.lab.kafka import Kafka, unsecured_token
from tests.lab.lab import SECURE, Lab
from tests.lab.logins import FORBIDDEN, LIMITED, LIMITED_PASSWORD, PASSWORD, TOKEN, USER
from tests.lab.nats import Nats
from tests.lab.proxy import Proxy
from tests.lab.pulsar import Pulsar
from tests.lab.redis import Redis
from tests.lab.round_trips import pulsar_silence

pytestmark = pytest.mark.slow

GetBroker = Callable[[str], Broker]
KAFKAS = ["kafka-secure", "kafka39-secure"]
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@pytest.fixture(autouse=True, scope="module")
def _end_secure_brokers(lab: Lab) -> Iterator[None]:
    """Give their memory back: no other test needs them all."""
    yield
    for name in SECURE:
        lab.drop(name)


def trusting(certificates: Certificates, *, ca: Path | None = None, client: str | None = None) -> ssl.SSLContext:
    """A client's TLS settings: an authority, and perhaps a certificate of its own."""
    context = ssl.create_default_context(cafile=ca or certificates.ca)
    if client is not None:
        pair = getattr(certificates, client)
        context.load_cert_chain(pair.cert, pair.key)
    return context


class Unsecured(aiokafka.abc.AbstractTokenProvider):  # type: ignore[misc]  # the library has no annotations
    """An OAuth token that nobody signed; the lab's Kafka takes it at its word."""

    async def token(self) -> str:
        return unsecured_token(USER)


async def produce(address: str, topic: str, **security: Any) -> None:
    admin = aiokafka.admin.AIOKafkaAdminClient(bootstrap_servers=address, **security)
    await admin.start()
    try:
        await admin.create_topics([aiokafka.admin.NewTopic(topic, 1, 1)])
    finally:
        await admin.close()
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=address, request_timeout_ms=5000, **security) as producer:
        await producer.send_and_wait(topic, b"secret")


def login(mechanism: str, *, user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    return {"sasl_mechanism": mechanism, "sasl_plain_username": user, "sasl_plain_password": password}


@pytest.mark.parametrize("name", KAFKAS)
@pytest.mark.parametrize("mechanism", [*MECHANISMS, "OAUTHBEARER"])
def test_kafka_takes_every_login(
    name: str, mechanism: str, get_broker: GetBroker, unique_name: Callable[..., str]
) -> None:
    broker = cast("Kafka", get_broker(name))
    security: dict[str, Any] = login(mechanism)
    if mechanism == "OAUTHBEARER":
        security = {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": Unsecured()}
    plain = {"security_protocol": "SASL_PLAINTEXT", **security}
    secured = {"security_protocol": "SASL_SSL", "ssl_context": trusting(broker.certificates), **security}
    asyncio.run(produce(broker.listener("sasl"), unique_name(), **plain))
    asyncio.run(produce(broker.listener("sasl-ssl"), unique_name(), **secured))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_kafka_refuses_a_wrong_password(mechanism: str, get_broker: GetBroker) -> None:
    broker = cast("Kafka", get_broker("kafka-secure"))
    wrong = login(mechanism, password="guessed")
    with pytest.raises(aiokafka.errors.KafkaError, match=r"(?i)authentication|connect"):
        asyncio.run(produce(broker.listener("sasl"), "never", security_protocol="SASL_PLAINTEXT", **wrong))


def test_kafka_keeps_limited_users_from_forbidden_topics(
    get_broker: GetBroker, unique_name: Callable[..., str]
) -> None:
    broker = cast("Kafka", get_broker("kafka-secure"))
    forbidden = unique_name(FORBIDDEN)
    limited = login("SCRAM-SHA-256", user=LIMITED, password=LIMITED_PASSWORD)
    address = broker.listener("sasl")
    asyncio.run(produce(broker.address, forbidden))
    asyncio.run(produce(address, unique_name(), security_protocol="SASL_PLAINTEXT", **limited))
    with pytest.raises(aiokafka.errors.TopicAuthorizationFailedError):
        asyncio.run(produce(address, forbidden, security_protocol="SASL_PLAINTEXT", **limited))


def test_kafka_speaks_tls_and_mutual_tls(get_broker: GetBroker, unique_name: Callable[..., str]) -> None:
    broker = cast("Kafka", get_broker("kafka-secure"))
    anybody = trusting(broker.certificates)
    known = trusting(broker.certificates, client="client")
    stranger = trusting(broker.certificates, client="stranger")
    asyncio.run(produce(broker.listener("ssl"), unique_name(), security_protocol="SSL", ssl_context=anybody))
    asyncio.run(produce(broker.listener("mtls"), unique_name(), security_protocol="SSL", ssl_context=known))
    for refused in (anybody, stranger):
        with pytest.raises(aiokafka.errors.KafkaConnectionError):
            asyncio.run(produce(broker.listener("mtls"), "never", security_protocol="SSL", ssl_context=refused))


async def handshake(port: int, context: ssl.SSLContext) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.close()


@pytest.mark.parametrize(("listener", "reason"), [("expired", "expired"), ("wrong-host", "127.0.0.1")])
def test_kafka_shows_bad_certificates(listener: str, reason: str, get_broker: GetBroker) -> None:
    broker = get_broker("kafka-secure")
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        asyncio.run(handshake(broker.port(listener), trusting(broker.certificates)))


@pytest.mark.parametrize(("name", "port"), [("kafka-secure", "ssl"), ("redis-secure", "tls"), ("pulsar-secure", "tls")])
def test_another_authority_is_not_trusted(name: str, port: str, get_broker: GetBroker) -> None:
    broker = get_broker(name)
    certificates = broker.certificates
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        asyncio.run(handshake(broker.port(port), trusting(certificates, ca=certificates.other_ca)))
    asyncio.run(handshake(broker.port(port), trusting(certificates)))


async def store(broker: Nats, subject: str, **security: Any) -> None:
    async def say_nothing(_: Exception) -> None:
        pass

    security = {"tls": trusting(broker.certificates), **security}
    client = await nats.connect(
        broker.address, allow_reconnect=False, max_reconnect_attempts=0, error_cb=say_nothing, **security
    )
    try:
        stream = client.jetstream(timeout=2)
        await stream.add_stream(name=subject, subjects=[subject])
        await stream.publish(subject, b"secret")
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("name", "security"),
    [
        ("nats-users", lambda _: {"user": USER, "password": PASSWORD}),
        ("nats29-users", lambda _: {"user": USER, "password": PASSWORD}),
        ("nats-users", lambda broker: {"nkeys_seed": str(broker.nkey_seed)}),
        ("nats-token", lambda _: {"token": TOKEN}),
        ("nats-creds", lambda broker: {"user_credentials": str(broker.credentials)}),
        ("nats-mtls", lambda broker: {"tls": trusting(broker.certificates, client="client")}),
    ],
    ids=["password", "password-2.9", "nkey", "token", "creds", "mtls"],
)
def test_nats_takes_every_login(
    name: str,
    security: Callable[[Nats], dict[str, Any]],
    get_broker: GetBroker,
    unique_name: Callable[..., str],
) -> None:
    broker = cast("Nats", get_broker(name))
    asyncio.run(store(broker, unique_name(), **security(broker)))


@pytest.mark.parametrize(
    ("name", "security"),
    [
        ("nats-users", lambda _: {"user": USER, "password": "guessed"}),
        ("nats-token", lambda _: {"token": "guessed"}),
        ("nats-creds", lambda broker: {"user_credentials": str(broker.stranger_credentials)}),
        ("nats-mtls", lambda _: {}),
    ],
    ids=["password", "token", "creds", "mtls"],
)
def test_nats_refuses_a_wrong_login(
    name: str, security: Callable[[Nats], dict[str, Any]], get_broker: GetBroker
) -> None:
    broker = cast("Nats", get_broker(name))
    with pytest.raises((nats.errors.Error, OSError)):
        asyncio.run(store(broker, "never", **security(broker)))


@pytest.mark.parametrize(("name", "reason"), [("nats-expired", "expired"), ("nats-wrong-host", "127.0.0.1")])
def test_nats_shows_bad_certificates(name: str, reason: str, get_broker: GetBroker) -> None:
    with pytest.raises((nats.errors.Error, OSError), match=reason):
        asyncio.run(store(cast("Nats", get_broker(name)), "never"))


def test_nats_keeps_limited_users_from_forbidden_subjects(
    get_broker: GetBroker, unique_name: Callable[..., str]
) -> None:
    broker = cast("Nats", get_broker("nats-users"))
    limited = {"user": LIMITED, "password": LIMITED_PASSWORD}
    asyncio.run(store(broker, unique_name(), **limited))
    with pytest.raises((nats.errors.Error, TimeoutError)):
        asyncio.run(store(broker, FORBIDDEN, **limited))


def pulsar_send(address: str, broker: Pulsar, topic: str, authentication: Any, *, ca: Path | None = None) -> None:
    client = pulsar.Client(
        address,
        authentication=authentication,
        tls_trust_certs_file_path=str(ca or broker.certificates.ca),
        tls_validate_hostname=True,
        operation_timeout_seconds=2,
        logger=pulsar_silence(),
    )
    try:
        client.create_producer(topic).send(b"secret")
    finally:
        client.close()


def test_pulsar_takes_tokens_and_client_certificates(get_broker: GetBroker, unique_name: Callable[..., str]) -> None:
    broker = cast("Pulsar", get_broker("pulsar-secure"))
    token = pulsar.AuthenticationToken(broker.token())
    client = broker.certificates.client
    pulsar_send(broker.address, broker, unique_name(), token)
    pulsar_send(broker.tls_address, broker, unique_name(), token)
    pulsar_send(broker.tls_address, broker, unique_name(), pulsar.AuthenticationTLS(str(client.cert), str(client.key)))


def rest_status(broker: Pulsar, token: str) -> int:
    request = urllib.request.Request(f"{broker.admin_address}/admin/v2/namespaces/public")
    request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_pulsar_refuses_wrong_logins_and_roles_without_rights(get_broker: GetBroker) -> None:
    broker = cast("Pulsar", get_broker("pulsar-secure"))
    wrong, powerless = broker.token(secret=b"guessed"), broker.token(LIMITED)
    assert [rest_status(broker, token) for token in (broker.token(), wrong, powerless)] == [200, 401, 401]
    with pytest.raises(pulsar.AuthorizationError):
        pulsar_send(broker.tls_address, broker, "never", pulsar.AuthenticationToken(powerless))
    # The client library does not tell this refusal from an absent broker.
    with pytest.raises(pulsar.Timeout):
        pulsar_send(broker.tls_address, broker, "never", pulsar.AuthenticationToken(wrong))


@pytest.mark.parametrize("kind", ["expired", "wrong-host", "other authority"])
def test_pulsar_clients_refuse_bad_certificates(kind: str, get_broker: GetBroker) -> None:
    broker = cast("Pulsar", get_broker("pulsar-secure"))
    certificates = broker.certificates
    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = certificates.server_pair(kind if "-" in kind or kind == "expired" else "server")
    front.load_cert_chain(pair.cert, pair.key)
    ca = certificates.other_ca if kind == "other authority" else None
    token = pulsar.AuthenticationToken(broker.token())
    with (
        Proxy(("127.0.0.1", broker.port("client")), tls=front).start() as proxy,
        pytest.raises(pulsar.PulsarException),
    ):
        pulsar_send(f"pulsar+ssl://{proxy.address}", broker, "never", token, ca=ca)


def test_redis_wants_the_password_and_speaks_tls(get_broker: GetBroker) -> None:
    broker = cast("Redis", get_broker("redis-secure"))
    ca = str(broker.certificates.ca)
    with redis.Redis.from_url(broker.tls_address, password=PASSWORD, ssl_ca_certs=ca) as client:
        assert client.set("key", "value")
    with (
        redis.Redis.from_url(broker.address, password="guessed") as guest,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        guest.ping()
    with redis.Redis.from_url(broker.address, username=LIMITED, password=LIMITED_PASSWORD) as limited:
        assert limited.get("key") == b"value"
        with pytest.raises(redis.exceptions.NoPermissionError):
            limited.set("key", "other")


@pytest.mark.parametrize(("name", "reason"), [("redis-expired", "expired"), ("redis-wrong-host", "127.0.0.1")])
def test_redis_shows_bad_certificates(name: str, reason: str, get_broker: GetBroker) -> None:
    broker = get_broker(name)
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        asyncio.run(handshake(broker.port("tls"), trusting(broker.certificates)))


def select_one(broker: Broker, *, ca: Path | None = None, **options: str) -> Any:
    options = {"sslmode": "verify-full", "sslrootcert": str(ca or broker.certificates.ca), **options}
    with psycopg.connect(broker.address, **cast("dict[str, Any]", options)) as connection:
        return connection.execute("select 1").fetchone()


def test_postgres_wants_tls_and_the_password(get_broker: GetBroker) -> None:
    broker = get_broker("postgres-secure")
    assert select_one(broker, password=PASSWORD) == (1,)
    refused: list[Callable[[], Any]] = [
        lambda: select_one(broker, password="guessed"),
        lambda: select_one(broker, password=PASSWORD, sslmode="disable"),
        lambda: select_one(broker, password=PASSWORD, ca=broker.certificates.other_ca),
    ]
    for attempt in refused:
        with pytest.raises(psycopg.OperationalError):
            attempt()


@pytest.mark.parametrize(
    ("name", "reason"), [("postgres-expired", "verify failed"), ("postgres-wrong-host", "127.0.0.1")]
)
def test_postgres_shows_bad_certificates(name: str, reason: str, get_broker: GetBroker) -> None:
    with pytest.raises(psycopg.OperationalError, match=reason):
        select_one(get_broker(name), password=PASSWORD)
