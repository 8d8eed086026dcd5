"""Results of the client library as the runtime's errors, in one line each, without secrets."""

from typing import Any

from hexa_worker.drivers.pulsar.client_internals import is_plain_error, is_result
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge

_REJECTED = {
    "AuthenticationError": "the login was refused (token or client certificate)",
    "AuthorizationError": "no rights",
    "InvalidTopicName": "the name is not allowed",
    "InvalidConfiguration": "the client library refuses these options",
    "MessageTooBig": "too large for the broker (its maxMessageSize)",
    "TopicNotFound": "it does not exist, or its namespace does not (topics are not made automatically here)",
    "TopicTerminated": "the topic was terminated",
    "IncompatibleSchema": "the topic has a schema that bytes do not fit",
    "UnsupportedVersionError": "the broker is too old",
    "NotAllowedError": "the broker does not allow it",
    "OperationNotSupported": "the broker does not support it",
    "CryptoError": "encryption failed",
}
_UNAVAILABLE = {
    "Timeout": "no answer in time",
    "ConnectError": "no connection",
    "NotConnected": "no connection",
    "ConsumerBusy": (
        "another consumer has the subscription for itself, or uses it with another type; trying again "
        '(with pulsar.type = "shared" or "failover" several processes can have it)'
    ),
    "AlreadyClosed": "the connection was closed",
    "ServiceUnitNotReady": "the broker is moving the topic",
    "ProducerQueueIsFull": "too much is waiting to be confirmed",
    "ProducerBlockedQuotaExceededError": "the backlog quota of the namespace is used up",
    "ProducerBlockedQuotaExceededException": "the backlog quota of the namespace is used up",
}


def name_of(error: Any) -> str:
    """The name of a result, or of the exception that stands for it."""
    if is_result(error):
        return str(error.name)
    text = str(error).removeprefix("Pulsar error: ")
    return {"TimeOut": "Timeout"}.get(text, text) if is_plain_error(error) else type(error).__name__


def translate(error: Any, what: str) -> DriverError:
    """What a result or exception of the client library means.

    Args:
        error: it.
        what: what was tried, for people.
    """
    name = name_of(error)
    if name == "MessageTooBig":
        return RecordTooLarge(f"pulsar: {what}: {_REJECTED[name]}")
    if name in _REJECTED:
        return DriverRejected(f"pulsar: {what}: {_REJECTED[name]}")
    return DriverUnavailable(f"pulsar: {what}: {_UNAVAILABLE.get(name, name)}")
