"""How a connection is encrypted and logged in, out of the typed options."""

import logging
import ssl
from pathlib import Path
from typing import Any

from hexa_worker.config.nats import Nats, NatsTls
from hexa_worker.errors import ConfigError
from hexa_worker.tls import UnusableFile, client_context

log = logging.getLogger("hexa_worker.drivers.nats")


def connect_options(options: Nats, folder: Path) -> dict[str, Any]:
    """Arguments of nats-py's ``connect`` that concern security.

    Raises:
        ConfigError: a file cannot be read or is not what it should be.
    """
    made: dict[str, Any] = {}
    if options.user is not None and options.password is not None:
        made |= {"user": options.user, "password": options.password.reveal()}
    elif options.token is not None:
        made["token"] = options.token.reveal()
    elif options.nkey_file is not None:
        made["nkeys_seed"] = str(_readable(folder, options.nkey_file, "nkey_file", "-----", "SU"))
    elif options.creds_file is not None:
        made["user_credentials"] = str(_readable(folder, options.creds_file, "creds_file", "-----BEGIN NATS USER JWT"))
    if options.tls is not None:
        made["tls"] = _context(options.tls, folder)
        made["tls_handshake_first"] = options.tls.first
        if options.tls.hostname is not None:
            made["tls_hostname"] = options.tls.hostname
    return made


def _readable(folder: Path, name: str, key: str, *starts: str) -> Path:
    path = folder / name
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise ConfigError(f"cannot read {name!r}: {error.strerror}", where=f"broker.{key}") from error
    if not text.startswith(starts):
        raise ConfigError(f"{name!r} does not hold what it should", where=f"broker.{key}")
    return path


def _context(tls: NatsTls, folder: Path) -> ssl.SSLContext:
    try:
        context = client_context(tls, folder, "" if tls.key_password is None else tls.key_password.reveal())
    except UnusableFile as error:
        raise ConfigError(
            f"cannot load certificates or key: {error.reason}", where=f"broker.tls.{error.key}"
        ) from error
    if tls.insecure:
        log.warning("the servers' certificates are not checked: tls.insecure is set")
    return context
