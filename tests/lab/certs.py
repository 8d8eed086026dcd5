"""A small certificate authority for TLS tests, made fresh for each broker directory.

All files are PEM. Besides the good certificates there are those that a client must refuse.
"""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)
_LOOPBACK = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key.

    Attributes:
        cert: the certificate.
        key: the private key, PKCS#8, not encrypted.
        both: one file with the key and the certificate.
    """

    cert: Path
    key: Path
    both: Path


class Certificates:
    """The certificates in one directory, made on first use.

    Attributes:
        ca: what clients and brokers trust.
        other_ca: an authority that signed nothing here.
        server: for localhost and 127.0.0.1.
        expired: like `server`, but its time is over.
        wrong_host: for another host.
        client: the name ``client`` for mutual TLS.
        stranger: a client certificate of the other authority.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ca = directory / "ca.pem"
        self.other_ca = directory / "other-ca.pem"
        self.server = self._pair("server")
        self.expired = self._pair("expired")
        self.wrong_host = self._pair("wrong-host")
        self.client = self._pair("client")
        self.stranger = self._pair("stranger")
        if not self.ca.exists():
            self._make()

    def server_pair(self, kind: str) -> KeyPair:
        """The server certificate of a kind: ``server``, ``expired`` or ``wrong-host``."""
        return {"server": self.server, "expired": self.expired, "wrong-host": self.wrong_host}[kind]

    def _pair(self, name: str) -> KeyPair:
        stem = self._directory / name
        return KeyPair(*(stem.with_suffix(suffix) for suffix in (".crt", ".key", ".pem")))

    def _make(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        ours, other = _Authority("lab"), _Authority("other")
        ours.issue(self.server, "localhost", _LOOPBACK)
        ours.issue(self.expired, "localhost", _LOOPBACK, days=(-30, -1))
        ours.issue(self.wrong_host, "elsewhere.test", [x509.DNSName("elsewhere.test")])
        ours.issue(self.client, "client", [x509.DNSName("client")])
        other.issue(self.stranger, "client", [x509.DNSName("client")])
        self.other_ca.write_bytes(other.pem)
        self.ca.write_bytes(ours.pem)  # last: it tells that all is made


class _Authority:
    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(f"hexa-worker test authority {name}")
        builder = _builder(self._name, self._name, self._key.public_key(), (-1, 30))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = builder.add_extension(usage, critical=True).add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
        )
        self.pem = certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        pair: KeyPair,
        name: str,
        hosts: "list[x509.DNSName] | tuple[x509.GeneralName, ...]",
        *,
        days: tuple[int, int] = (-1, 30),
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(_subject(name), self._name, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for path, content in ((pair.cert, pem), (pair.key, secret), (pair.both, secret + pem)):
            path.touch(mode=0o600)
            path.write_bytes(content)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: tuple[int, int]
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * _DAY)
        .not_valid_after(now + days[1] * _DAY)
    )
