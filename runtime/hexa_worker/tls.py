"""TLS as the configuration describes it: whom to trust, and what to show."""

import ssl
from pathlib import Path
from typing import Protocol


class Tls(Protocol):
    """A table of TLS options; files are relative to the folder of worker.toml."""

    @property
    def ca_file(self) -> str | None:
        """Certificates of the authorities to trust; None: those of the machine."""

    @property
    def cert_file(self) -> str | None:
        """The client's own certificate."""

    @property
    def key_file(self) -> str | None:
        """Its private key; None: it is in `cert_file`."""

    @property
    def insecure(self) -> bool:
        """Neither certificate nor host name is checked."""


class UnusableFile(Exception):
    """A file cannot be read, or is not what it should be.

    Args:
        key: the option that names it; a key that does not fit its certificate counts as ``cert_file``.
        reason: in the system's words.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


def client_context(tls: Tls, folder: Path, password: str = "") -> ssl.SSLContext:
    """What a client checks and shows.

    Args:
        tls: the options.
        folder: what files are relative to.
        password: opens the key.

    Raises:
        UnusableFile: in one of the files.
    """
    key = "ca_file"
    try:
        context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(folder / tls.ca_file))
        key = "cert_file"
        if tls.cert_file is not None:
            key_file = None if tls.key_file is None else str(folder / tls.key_file)
            # A password that is None would have OpenSSL ask for one on the terminal.
            context.load_cert_chain(str(folder / tls.cert_file), key_file, password=password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise UnusableFile(key, reason) from error
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
