"""Certificates, keys and tokens that worker.toml names: looked up beside it, and never asked for on a terminal."""

import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from hexa_worker.config.dedup import Dedup, DedupTls
from hexa_worker.config.kafka import Kafka, KafkaSasl, KafkaTls
from hexa_worker.config.nats import Nats, NatsTls
from hexa_worker.config.secret import Secret
from hexa_worker.dedup.clients import make_client
from hexa_worker.drivers.kafka.security import security_settings
from hexa_worker.drivers.nats.security import connect_options
from hexa_worker.errors import ConfigError
from tests.lab.certs import Certificates

FILES: dict[str, Any] = {"ca_file": "ca.pem", "cert_file": "client.crt", "key_file": "client.key"}
REDIS = Secret("rediss://127.0.0.1:1")
ASKING = """
import sys
from pathlib import Path
from tests.unit.test_security_files import loaders
try:
    loaders(Path(sys.argv[2]), key_file="locked.key")[sys.argv[1]]()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates, a token, and a key that a password locks."""
    folder = tmp_path_factory.mktemp("certificates")
    key = load_pem_private_key(Certificates(folder).client.key.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame"))
    (folder / "locked.key").write_bytes(locked)
    (folder / "token").write_text("t")
    return folder


def loaders(folder: Path, **more: Any) -> dict[str, Any]:
    """What reads the files of each."""
    files = {**FILES, **more}
    return {
        "kafka": lambda: security_settings(Kafka(tls=KafkaTls(**files)), folder),
        "nats": lambda: connect_options(Nats(tls=NatsTls(**files)), folder),
        "redis": lambda: make_client(Dedup(store="redis", url=REDIS, tls=DedupTls(**files)), folder),
    }


@pytest.mark.parametrize("of", ["kafka", "nats", "redis"])
def test_files_are_looked_up_beside_worker_toml(folder: Path, of: str) -> None:
    loaders(folder)[of]()
    for key in FILES:
        with pytest.raises(ConfigError, match="No such file"):
            loaders(folder, **{key: "nowhere.pem"})[of]()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_token_file_is_looked_up_beside_worker_toml(folder: Path) -> None:
    settings = security_settings(Kafka(sasl=KafkaSasl(mechanism="OAUTHBEARER", token_file="token")), folder)
    assert await settings["sasl_oauth_token_provider"].token() == "t"


@pytest.mark.parametrize("of", ["kafka", "nats"])
def test_a_locked_key_is_opened_with_its_password(folder: Path, of: str) -> None:
    made = loaders(folder, key_file="locked.key", key_password=Secret("sesame"))[of]()
    assert isinstance(made["ssl_context" if of == "kafka" else "tls"], ssl.SSLContext)


@pytest.mark.parametrize("of", ["kafka", "nats", "redis"])
def test_a_locked_key_without_its_password_is_an_error_and_no_question(folder: Path, of: str) -> None:
    """On a terminal, where OpenSSL would ask."""
    inside = [sys.executable, "-c", ASKING, of, str(folder)]
    command = [sys.executable, "-c", f"import pty; pty.spawn({inside!r})"]
    ran = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert "ConfigError" in ran.stdout
    assert "pass phrase" not in ran.stdout
