"""How a connection is encrypted and logged in, out of the typed options."""

import logging
import ssl
from pathlib import Path
from typing import Any

from hexa_worker.config.nats import Nats, NatsTls
from hexa_worker.errors import ConfigError

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
    context = ssl.create_default_context()
    key = "ca_file"
    try:
        if tls.ca_file is not None:
            context = ssl.create_default_context(cafile=str(folder / tls.ca_file))
        key = "cert_file"
        if tls.cert_file is not None:
            context.load_cert_chain(
                str(folder / tls.cert_file),
                None if tls.key_file is None else str(folder / tls.key_file),
                # Without a password the library would ask for one on the terminal.
                "" if tls.key_password is None else tls.key_password.reveal(),
            )
    except (OSError, ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"cannot load certificates or key: {reason}", where=f"broker.tls.{key}") from error
    if tls.insecure:
        log.warning("the servers' certificates are not checked: tls.insecure is set")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
