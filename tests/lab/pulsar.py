"""Apache Pulsar: standalone, with one bookie and RocksDB metadata, from Maven jars.

Clients that come in through ``proxied`` are sent on to the proxy's port by topic look-ups. A secure broker has TLS
listeners besides, and everybody must log in: by token (`Pulsar.token`) or by client certificate (role ``client``).
"""

import base64
import hashlib
import hmac
import json
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from tests.lab.base import Broker
from tests.lab.cache import building, cache_dir, cache_name, maven_jars, need_program, run_tool
from tests.lab.errors import BrokerError
from tests.lab.logins import USER

NEWEST = "4.0.7"

_POM = Path(__file__).parent / "jvm" / "pulsar.pom.xml"
_TOOL = _POM.with_name("Unregister.java")
_OPENS = (
    *(
        f"java.base/{name}"
        for name in ["java.io", "java.nio", "java.util.zip", "jdk.internal.misc", "jdk.internal.platform", "sun.net"]
    ),
    "java.management/sun.management",
    "jdk.management/com.sun.management.internal",
)
_DRIVER = "org.apache.pulsar.metadata.bookkeeper.PulsarMetadata"
_JVM = (
    "-Xms128m -Xmx512m -XX:MaxDirectMemorySize=384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "
    "-XX:+ExitOnOutOfMemoryError -Dio.netty.tryReflectionSetAccessible=true "
    "-Djava.net.preferIPv4Stack=true -Djava.io.tmpdir=tmp "
    "-Dlog4j2.configurationFile=conf/log4j2.properties -Dlog4j.shutdownHookEnabled=false "
    f"-Dbookkeeper.metadata.bookie.drivers={_DRIVER}BookieDriver "
    f"-Dbookkeeper.metadata.client.drivers={_DRIVER}ClientDriver"
).split()
_CONFIG = """
clusterName=standalone
brokerServicePort={client}
webServicePort={http}
bindAddress=127.0.0.1
advertisedAddress=127.0.0.1
bindAddresses=proxied:pulsar://127.0.0.1:{proxied}
advertisedListeners=internal:pulsar://127.0.0.1:{client},proxied:pulsar://127.0.0.1:{proxy}
internalListenerName=internal
listeningInterface=lo
allowLoopback=true
allowEphemeralPorts=true
ledgerStorageClass=org.apache.bookkeeper.bookie.storage.ldb.DbLedgerStorage
dbStorage_writeCacheMaxSizeMb=32
dbStorage_readAheadCacheMaxSizeMb=16
dbStorage_rocksDB_blockCacheSize=16777216
journalSyncData=false
journalFlushWhenQueueEmpty=true
diskUsageThreshold=0.99
diskUsageWarnThreshold=0.99
nettyMaxFrameSizeBytes=5253120
managedLedgerDefaultEnsembleSize=1
managedLedgerDefaultWriteQuorum=1
managedLedgerDefaultAckQuorum=1
managedLedgerCacheSizeMB=32
defaultNumberOfNamespaceBundles=4
numHttpServerThreads=8
loadBalancerEnabled=false
brokerShutdownTimeoutMs=1000
brokerDeleteInactiveTopicsEnabled=false
acknowledgmentAtBatchIndexLevelEnabled=true
delayedDeliveryTickTimeMillis=100
"""
_SECURE = """
brokerServicePortTls={tls}
webServicePortTls={https}
tlsCertificateFilePath={pair.cert}
tlsKeyFilePath={pair.key}
tlsTrustCertsFilePath={ca}
authenticationEnabled=true
authenticationProviders={provider}Token,{provider}Tls
tokenSecretKey=data:;base64,{secret}
authorizationEnabled=true
superUserRoles={user},client
brokerClientAuthenticationPlugin=org.apache.pulsar.client.impl.auth.AuthenticationToken
brokerClientAuthenticationParameters=token:{token}
"""
_LOGGING = """
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %-5p %c{1} - %m%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
"""
_SECRET = hashlib.sha256(b"the token key of the lab").digest()


class Pulsar(Broker):
    """One standalone Pulsar broker.

    Args:
        root: its directory.
        version: which Pulsar.
        secure: with TLS, authentication and authorisation; only `USER` and role ``client`` may do anything.
        dies_with_us: see `Broker`.
    """

    ready_s = 120.0
    _proxied_port: ClassVar[str] = "proxied"

    def __init__(self, root: Path, *, version: str = NEWEST, secure: bool = False, dies_with_us: bool = True) -> None:
        self._version = version
        self._secure = secure
        self._archive: Path | None = None
        self._jars = cache_name(_POM, version)
        self.port_names = ("client", "http", "bookie", "proxied", "proxy", *(("tls", "https") if secure else ()))
        super().__init__(root, dies_with_us=dies_with_us)

    @property
    def version(self) -> str:
        """Version of Pulsar."""
        return self._version

    @property
    def address(self) -> str:
        """Service URL."""
        return f"pulsar://127.0.0.1:{self.port('client')}"

    @property
    def admin_address(self) -> str:
        """URL of the REST API."""
        return f"http://127.0.0.1:{self.port('http')}"

    @property
    def tls_address(self) -> str:
        """Service URL of the TLS listener (secure only)."""
        return f"pulsar+ssl://127.0.0.1:{self.port('tls')}"

    @property
    def tls_admin_address(self) -> str:
        """URL of the REST API through TLS (secure only)."""
        return f"https://127.0.0.1:{self.port('https')}"

    @staticmethod
    def token(role: str = USER, *, secret: bytes = _SECRET) -> str:
        """Token (JWT, HS256) for a role; with another secret, one that the broker refuses."""
        head = _encode(b'{"alg":"HS256"}')
        signed = f"{head}.{_encode(json.dumps({'sub': role}).encode())}"
        return f"{signed}.{_encode(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def fetch(self) -> None:
        """Resolve the jars, compile the one tool, and start a broker once to record its classes."""
        need_program("java", package="openjdk-17-jre-headless")
        with building(self._jars) as target:
            if target is not None:
                maven_jars(_POM, target, f"-Dpulsar.version={self._version}")
        with building(cache_name(_TOOL, self._version)) as target:
            if target is not None:
                need_program("javac", package="openjdk-17-jdk-headless")
                jars = f"{cache_dir()}/{self._jars}/*"
                run_tool(["javac", "-proc:none", "-cp", jars, "-d", str(target), str(_TOOL)])
        if self._archive is None:
            with suppress(BrokerError), building(f"{self._jars}-classes") as target:  # it costs speed only
                if target is not None:
                    self._record_classes(target)

    def configure(self) -> None:
        """Write the configuration; after a kill remove what it left behind in the metadata."""
        for name in ("conf", "tmp"):
            (self.root / name).mkdir(exist_ok=True)
        ports = {name: self.port(name) for name in self.port_names}
        config = _CONFIG.format(**ports)
        if self._secure:
            config += _SECURE.format(
                **ports,
                pair=self.certificates.server,
                ca=self.certificates.ca,
                provider="org.apache.pulsar.broker.authentication.AuthenticationProvider",
                secret=base64.b64encode(_SECRET).decode(),
                user=USER,
                token=self.token(),
            )
        (self.root / "conf" / "standalone.conf").write_text(config)
        (self.root / "conf" / "log4j2.properties").write_text(_LOGGING)
        if self.was_killed and (self.root / "data" / "metadata").exists():
            self._unregister()

    def command(self) -> Sequence[str]:
        """The JVM of the broker."""
        opens = [part for module in _OPENS for part in ("--add-opens", f"{module}=ALL-UNNAMED")]
        recorded = cache_dir() / f"{self._jars}-classes" / "pulsar.jsa"
        if self._archive is not None:
            opens.append(f"-XX:ArchiveClassesAtExit={self._archive}")
        elif recorded.exists():
            opens.append(f"-XX:SharedArchiveFile={recorded}")
        options = [
            "--config",
            "conf/standalone.conf",
            "--no-functions-worker",
            "--no-stream-storage",
            "--num-bookies",
            "1",
            "--metadata-dir",
            "data/metadata",
            "--bookkeeper-dir",
            "data/bookkeeper",
            "--advertised-address",
            "127.0.0.1",
        ]
        java = ["java", *_JVM, *opens, "-cp", f"{cache_dir()}/{self._jars}/*"]
        starter = "org.apache.pulsar.PulsarStandaloneStarter"
        return [*java, starter, *options, "--bookkeeper-port", str(self.port("bookie"))]

    def ready(self) -> bool:
        """It produced and read a message on its own topic, the namespace exists, and its bundle is loaded."""
        with suppress(OSError, ValueError):
            return (
                self._get("/admin/v2/brokers/health") == b"ok"
                and "public/default" in json.loads(self._get("/admin/v2/namespaces/public"))
                and bool(self._get("/lookup/v2/topic/persistent/public/default/ready"))
            )
        return False

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(self.admin_address + path)
        if self._secure:
            request.add_header("Authorization", f"Bearer {self.token()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())

    def _record_classes(self, target: Path) -> None:
        with TemporaryDirectory() as directory:
            broker = Pulsar(Path(directory) / "pulsar", version=self._version)
            broker._archive = target / "pulsar.jsa"
            try:
                broker.start()
                broker.stop()
            finally:
                broker.close()

    def _unregister(self) -> None:
        classes = f"{cache_dir() / cache_name(_TOOL, self._version)}:{cache_dir() / self._jars}/*"
        logging = "-Dlog4j2.configurationFile=conf/log4j2.properties"
        metadata = str(self.root / "data" / "metadata")
        self.run_to_end(["java", "-XX:TieredStopAtLevel=1", logging, "-cp", classes, "Unregister", metadata])


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
