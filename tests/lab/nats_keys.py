"""NATS keys and JWTs, enough for a server with one operator, a system account and one account with JetStream."""

import base64
import hashlib
import json
import os
import time
from typing import Any, Literal, Self

import nkeys  # type: ignore[import-untyped]  # it has no annotations

_KINDS = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "user": nkeys.PREFIX_BYTE_USER,
}
_JETSTREAM = dict.fromkeys(
    ("mem_storage", "disk_storage", "streams", "consumer"),
    -1,
)
_CREDENTIALS = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


class KeyPair:
    """An Ed25519 key in NATS' notation."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self._pair = nkeys.from_seed(bytearray(seed.encode()))
        self.public: str = self._pair.public_key.decode()

    @classmethod
    def new(cls, kind: Literal["operator", "account", "user"]) -> Self:
        """Make a new key."""
        return cls(nkeys.encode_seed(os.urandom(32), _KINDS[kind]).decode())

    @classmethod
    def load(cls, seed: str) -> Self:
        """Read a seed."""
        return cls(seed.strip())

    def sign(self, subject: str, name: str, claims: dict[str, Any]) -> str:
        """JWT about another key, signed with this one."""
        body = {"iat": int(time.time()), "iss": self.public, "sub": subject, "name": name}
        body["nats"] = {**claims, "version": 2}
        body["jti"] = base64.b32encode(hashlib.sha256(_compact(body)).digest()).decode().rstrip("=")
        head = _encode(_compact({"typ": "JWT", "alg": "ed25519-nkey"}))
        signed = f"{head}.{_encode(_compact(body))}"
        return f"{signed}.{_encode(self._pair.sign(signed.encode()))}"


class Operator:
    """An operator with its two accounts."""

    def __init__(self) -> None:
        self._key = KeyPair.new("operator")
        self._system = KeyPair.new("account")
        self._account = KeyPair.new("account")

    def server_config(self) -> str:
        """What makes a server trust this operator."""
        operator = self._key.sign(self._key.public, "lab", {"type": "operator", "system_account": self._system.public})
        accounts = {
            self._system.public: self._account_jwt(self._system, "SYS", {}),
            self._account.public: self._account_jwt(self._account, "LAB", _JETSTREAM),
        }
        preload = "\n".join(f"  {key}: {jwt}" for key, jwt in accounts.items())
        return (
            f"operator: {operator}\nsystem_account: {self._system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
        )

    def user_credentials(self, name: str) -> str:
        """Contents of a credentials file for a new user of the account."""
        user = KeyPair.new("user")
        claims = {"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        return _CREDENTIALS.format(jwt=self._account.sign(user.public, name, claims), seed=user.seed)

    def _account_jwt(self, account: KeyPair, name: str, limits: dict[str, int]) -> str:
        basic = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}
        claims = {"type": "account", "limits": {**basic, "wildcards": True, **limits}, "default_permissions": {}}
        return self._key.sign(account.public, name, claims)


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
