"""TLS and login: from the options to what aiokafka wants, with one clear error for each thing that is wrong."""

import logging
import ssl
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from hexa_worker.config.kafka import Kafka, KafkaSasl, KafkaTls
from hexa_worker.errors import ConfigError
from hexa_worker.tls import UnusableFile, client_context

log = logging.getLogger("hexa_worker.kafka")


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is not typed
    """Gives aiokafka the token of the options; a token file is read anew at each login."""

    def __init__(self, sasl: KafkaSasl, folder: Path) -> None:
        self._sasl = sasl
        self._folder = folder

    async def token(self) -> str:
        if self._sasl.token is not None:
            return self._sasl.token.reveal()
        return read_token(self._folder / (self._sasl.token_file or ""))


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the token: {error}", where="broker.sasl.token_file") from error


def security_settings(options: Kafka, folder: Path) -> dict[str, Any]:
    """The keyword arguments of every aiokafka client that have to do with security; `folder` is that of worker.toml.

    Raises:
        ConfigError: a file cannot be read or is not what it should be.
    """
    sasl, tls = options.sasl, options.tls
    names = {
        (False, False): "PLAINTEXT",
        (False, True): "SASL_PLAINTEXT",
        (True, False): "SSL",
        (True, True): "SASL_SSL",
    }
    settings: dict[str, Any] = {"security_protocol": names[tls is not None, sasl is not None]}
    if tls is not None:
        settings["ssl_context"] = tls_context(tls, folder)
    if sasl is None:
        return settings
    settings["sasl_mechanism"] = sasl.mechanism
    if sasl.mechanism == "OAUTHBEARER":
        if sasl.token_file is not None:
            read_token(folder / sasl.token_file)
        settings["sasl_oauth_token_provider"] = TokenProvider(sasl, folder)
    else:
        settings["sasl_plain_username"] = sasl.username
        settings["sasl_plain_password"] = sasl.password.reveal() if sasl.password is not None else None
    return settings


def tls_context(tls: KafkaTls, folder: Path) -> ssl.SSLContext:
    """The TLS settings; certificates and host names are checked unless `insecure`.

    Raises:
        ConfigError: a file cannot be read or is not what it should be.
    """
    try:
        context = client_context(tls, folder, "" if tls.key_password is None else tls.key_password.reveal())
    except UnusableFile as error:
        if error.key == "ca_file":
            raise ConfigError(
                f"cannot use {tls.ca_file} as certificate authority: {error.reason}", where="broker.tls.ca_file"
            ) from error
        raise ConfigError(
            f"cannot use {tls.cert_file} with its key: {error.reason}",
            where="broker.tls.cert_file",
            hint="the key belongs to the certificate, and key_password opens it",
        ) from error
    if tls.insecure:
        log.warning("kafka: broker.tls.insecure is set: certificates and host names are not checked")
    return context


def tls_failure(error: BaseException) -> str | None:
    """What is wrong with TLS, in words, when `error` or one of its causes is about that; else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate was refused: {seen.verify_message or seen.reason}"
        if isinstance(seen, ssl.SSLError):
            return f"TLS failed: {seen.reason or type(seen).__name__} (is it a TLS port?)"
        seen = seen.__cause__ or seen.__context__
    return None
