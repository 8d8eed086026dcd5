"""Apache Kafka: one KRaft node from Maven jars.

Plain listeners ``client`` and ``proxied`` (which advertises the proxy's port) are always there. A secure node has
more: ``ssl``, ``mtls`` (client certificate required), ``expired`` and ``wrong-host`` (TLS with a bad certificate),
``sasl`` (login over plain TCP) and ``sasl-ssl``.
"""

import base64
import json
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from tests.lab.base import Broker
from tests.lab.cache import building, cache_dir, cache_name, maven_jars, need_program
from tests.lab.errors import BrokerError
from tests.lab.logins import FORBIDDEN, LIMITED, LIMITED_PASSWORD, PASSWORD, USER

NEWEST = "4.4.0"
OLDEST = "3.9.2"

_POM = Path(__file__).parent / "jvm" / "kafka.pom.xml"
_JVM = [
    "-Xmx512m",
    "-XX:+UseG1GC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]
_PROTOCOLS = {
    "client": "PLAINTEXT",
    "proxied": "PLAINTEXT",
    "controller": "PLAINTEXT",
    "ssl": "SSL",
    "mtls": "SSL",
    "expired": "SSL",
    "wrong-host": "SSL",
    "sasl": "SASL_PLAINTEXT",
    "sasl-ssl": "SASL_SSL",
}
_PLAIN = ("client", "proxied", "controller")
_SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_JAAS = "org.apache.kafka.common.security"

# The broker session is short because after SIGKILL the controller refuses the new registration until the old session
# has expired (9 s by default).
_SETTINGS = """
process.roles=broker,controller
node.id=1
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=200
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=100
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
num.network.threads=2
num.io.threads=2
"""


class Kafka(Broker):
    """One Kafka node.

    Args:
        root: its directory.
        version: which Kafka.
        secure: with TLS and login listeners and an authorizer (see `tests.lab.logins`).
        dies_with_us: see `Broker`.
    """

    _proxied_port: ClassVar[str] = "proxied"

    def __init__(self, root: Path, *, version: str = NEWEST, secure: bool = False, dies_with_us: bool = True) -> None:
        self._version = version
        self._listeners = tuple(_PROTOCOLS) if secure else _PLAIN
        self._secure = secure
        self._archive: Path | None = None
        self._jars = cache_name(_POM, version)
        self.port_names = (*self._listeners, "proxy")
        super().__init__(root, dies_with_us=dies_with_us)

    @property
    def version(self) -> str:
        """Version of Kafka."""
        return self._version

    @property
    def address(self) -> str:
        """Bootstrap server."""
        return self.listener("client")

    def listener(self, name: str) -> str:
        """Bootstrap server of one listener."""
        return f"127.0.0.1:{self.port(name)}"

    def fetch(self) -> None:
        """Resolve the jars, and start a node once to record its classes, which halves every later start."""
        need_program("java", package="openjdk-17-jre-headless")
        with building(self._jars) as target:
            if target is not None:
                profile = ["-Pkafka-3"] if self._version.startswith("3.") else []
                maven_jars(_POM, target, f"-Dkafka.version={self._version}", *profile)
        if self._archive is None:
            with suppress(BrokerError), building(f"{self._jars}-classes") as target:  # it costs speed only
                if target is not None:
                    self._record_classes(target)

    def configure(self) -> None:
        """Write server.properties; format the log directory once."""
        (self.root / "server.properties").write_text("\n".join(self._properties()) + _SETTINGS)
        if not (self.root / "data" / "meta.properties").exists():
            self._format()

    def command(self) -> Sequence[str]:
        """The JVM of the node."""
        return [*self._java(), "kafka.Kafka", "server.properties"]

    def ready(self) -> bool:
        """Both coordinators are found: the node is unfenced, its inner topics exist and have a leader."""
        with suppress(OSError, struct.error):
            return self._find_coordinator(0) == 0 and self._find_coordinator(1) == 0
        return False

    def start(self) -> None:
        """Start; a secure node then closes the forbidden topics and groups to all but `USER`."""
        super().start()
        if self._secure:
            for resource in (2, 3):  # topic, group
                self._allow_only(USER, resource, FORBIDDEN)

    def throttle_producers(self, bytes_per_s: float | None, client_id: str | None = None) -> None:
        """Give a client, or every one, a quota for what it produces; None takes it away.

        AlterClientQuotas (key 49, version 0), for a client id; None: the default one.
        """
        entity = _text("client-id") + (struct.pack(">h", -1) if client_id is None else _text(client_id))
        op = _text("producer_byte_rate") + struct.pack(">d?", bytes_per_s or 0.0, bytes_per_s is None)
        one = struct.pack(">i", 1)
        answer = self._request(49, 0, one + one + entity + one + op + b"\0")
        code = struct.unpack_from(">iih", answer)[2]
        if code:
            message = f"{self}: the quota was refused, error {code}"
            raise BrokerError(message)

    def _record_classes(self, target: Path) -> None:
        with TemporaryDirectory() as directory:
            node = Kafka(Path(directory) / "kafka", version=self._version)
            node._archive = target / "kafka.jsa"
            try:
                node.start()
                node.stop()
            finally:
                node.close()

    def _java(self) -> list[str]:
        recorded = cache_dir() / f"{self._jars}-classes" / "kafka.jsa"
        options = [*_JVM]
        if self._archive is not None:
            options.append(f"-XX:ArchiveClassesAtExit={self._archive}")
        elif recorded.exists():
            options.append(f"-XX:SharedArchiveFile={recorded}")
        return ["java", *options, "-cp", f"{cache_dir()}/{self._jars}/*"]

    def _format(self) -> None:
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", "hexa-worker-tests-000A"]
        command = [part for part in command if "ArchiveClassesAtExit" not in part]
        command += ["-c", "server.properties"]
        if self._secure:
            for mechanism in _SCRAM:
                for user, password in ((USER, PASSWORD), (LIMITED, LIMITED_PASSWORD)):
                    command += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        self.run_to_end(command)

    def _properties(self) -> list[str]:
        bound = ",".join(f"{name.upper()}://127.0.0.1:{self.port(name)}" for name in self._listeners)
        advertised = {name: self.port(name) for name in self._listeners if name != "controller"}
        advertised["proxied"] = self.port("proxy")
        lines = [
            f"listeners={bound}",
            "advertised.listeners="
            + ",".join(f"{name.upper()}://127.0.0.1:{port}" for name, port in advertised.items()),
            "listener.security.protocol.map="
            + ",".join(f"{name.upper()}:{_PROTOCOLS[name]}" for name in self._listeners),
            f"controller.quorum.voters=1@127.0.0.1:{self.port('controller')}",
            f"log.dirs={self.root / 'data'}",
        ]
        return lines + self._secure_properties() if self._secure else lines

    def _secure_properties(self) -> list[str]:
        certificates = self.certificates
        plain = f'user_{USER}="{PASSWORD}" user_{LIMITED}="{LIMITED_PASSWORD}"'
        lines = [
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found=true",
            f"super.users=User:ANONYMOUS;User:{USER}",
            f"sasl.enabled.mechanisms=PLAIN,OAUTHBEARER,{','.join(_SCRAM)}",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={certificates.ca}",
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={certificates.server.both}",
            "listener.name.mtls.ssl.client.auth=required",
        ]
        for kind in ("expired", "wrong-host"):
            lines += [
                f"listener.name.{kind}.ssl.keystore.type=PEM",
                f"listener.name.{kind}.ssl.keystore.location={certificates.server_pair(kind).both}",
            ]
        for listener in ("sasl", "sasl-ssl"):
            prefix = f"listener.name.{listener}"
            lines.append(f"{prefix}.plain.sasl.jaas.config={_JAAS}.plain.PlainLoginModule required {plain};")
            lines += [
                f"{prefix}.{mechanism.lower()}.sasl.jaas.config={_JAAS}.scram.ScramLoginModule required;"
                for mechanism in _SCRAM
            ]
            login = f"{_JAAS}.oauthbearer.OAuthBearerLoginModule"
            handler = f"{_JAAS}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
            lines += [
                f'{prefix}.oauthbearer.sasl.jaas.config={login} required unsecuredLoginStringClaim_sub="broker";',
                f"{prefix}.oauthbearer.sasl.server.callback.handler.class={handler}",
            ]
        return lines

    def _find_coordinator(self, kind: int) -> int:
        """Error code of FindCoordinator (key 10, version 1) for a group (0) or a transaction (1)."""
        body = struct.pack(">h5sb", 5, b"ready", kind)
        answer = self._request(10, 1, body)
        return int(struct.unpack_from(">ih", answer)[1])

    def _allow_only(self, user: str, resource: int, prefix: str) -> None:
        """CreateAcls (key 30, version 1): on names with this prefix, all operations for one user."""
        principal, name = f"User:{user}".encode(), prefix.encode()
        prefixed, everything, allow = 4, 2, 3
        body = struct.pack(">ibh", 1, resource, len(name)) + name + struct.pack(">bh", prefixed, len(principal))
        body += principal + struct.pack(">h1sbb", 1, b"*", everything, allow)
        error = struct.unpack_from(">iih", self._request(30, 1, body))[2]
        if error:
            message = f"{self} refused an access rule, error {error}"
            raise BrokerError(message)

    def _request(self, key: int, version: int, body: bytes) -> bytes:
        frame = struct.pack(">hhih1s", key, version, 1, 1, b"x") + body
        with socket.create_connection(("127.0.0.1", self.port("client")), 5) as connection:
            connection.sendall(struct.pack(">i", len(frame)) + frame)
            stream = connection.makefile("rb")
            size, _correlation = struct.unpack(">ii", stream.read(8))
            return stream.read(size - 4)


def unsecured_token(user: str) -> str:
    """OAuth token (a JWT without a signature, good for an hour) that the secure listeners accept."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": user, "iat": now, "exp": now + 3600})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()
