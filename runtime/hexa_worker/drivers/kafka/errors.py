"""Errors of aiokafka, mapped onto the runtime's own. Nothing else in the driver decides what an error means."""

import asyncio
from enum import Enum, auto

from aiokafka import errors as kafka

from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge


class InvalidRecord(kafka.BrokerResponseError):  # type: ignore[misc]  # aiokafka is not typed, and does not know it
    """A broker's own checks refuse a record: one without a key in a compacted topic, a schema that does not fit."""

    errno = 87
    message = "INVALID_RECORD"
    retriable = False


class UnknownCode(kafka.BrokerResponseError):  # type: ignore[misc]  # as above
    """An error that aiokafka does not know."""


TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)

_HOPELESS = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.InvalidTopicError,
    InvalidRecord,
    kafka.InvalidGroupIdError,
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidPartitionsError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidConfigurationError,
    kafka.PolicyViolationError,
    kafka.SaslAuthenticationFailed,
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.UnsupportedSaslMechanismError,
    kafka.IllegalSaslStateError,
    kafka.UnsupportedVersionError,
    kafka.IncompatibleBrokerVersion,
    kafka.UnrecognizedBrokerVersion,
    kafka.UnsupportedCodecError,
    kafka.InvalidRequestError,
)

_ADVICE: dict[type[BaseException], str] = {
    kafka.TopicAuthorizationFailedError: "this login has no rights on the topic",
    kafka.GroupAuthorizationFailedError: "this login has no rights on the consumer group",
    kafka.ClusterAuthorizationFailedError: "this login has no rights on the cluster",
    kafka.InvalidTopicError: "Kafka does not allow that topic name",
    kafka.InvalidReplicationFactorError: "there are not enough brokers for that replication",
    kafka.InconsistentGroupProtocolError: "the group's other members assign partitions by neither roundrobin nor range",
    kafka.InvalidSessionTimeoutError: "the broker does not allow that session_timeout_s",
    kafka.SaslAuthenticationFailed: "the login was refused (look at broker.sasl)",
    kafka.UnsupportedSaslMechanismError: "the broker does not offer that login mechanism (broker.sasl.mechanism)",
    kafka.IncompatibleBrokerVersion: "the broker is too old for this client",
    kafka.MessageSizeTooLargeError: "the record is larger than the topic allows (max.message.bytes)",
    kafka.RecordListTooLargeError: "the record is larger than a segment of the topic (segment.bytes)",
    kafka.InvalidTimestampError: "the topic does not allow the record's time (message.timestamp.after.max.ms and "
    "before.max.ms); is the clock of this machine right?",
    InvalidRecord: "the broker's checks refuse the record (a compacted topic takes none without a key)",
}


class Fate(Enum):
    """What a node's answer means for a batch."""

    STORED = auto()
    REFUSED = auto()
    """Not stored, and it never will be as it is."""
    FORGOTTEN = auto()
    """Not stored: the node knows another story of this producer than we do."""
    NOT_YET = auto()
    """Not stored; later, or elsewhere, it will be."""
    OPEN = auto()
    """It may be stored, or be stored yet."""


_STORED = (kafka.NoError, kafka.DuplicateSequenceNumber)
_FORGOTTEN = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
)
_NOT_YET = (
    kafka.UnknownTopicOrPartitionError,
    kafka.LeaderNotAvailableError,
    kafka.NotLeaderForPartitionError,
    kafka.BrokerNotAvailableError,
    kafka.ReplicaNotAvailableError,
    kafka.NotEnoughReplicasError,
)


def error_of(code: int, reason: str = "") -> kafka.KafkaError:
    """The error that a broker's code stands for."""
    words = [reason] if reason else []
    if code == InvalidRecord.errno:
        return InvalidRecord(*words)
    known = kafka.for_code(code)
    if known is kafka.UnknownError and code != known.errno:
        return UnknownCode(f"error code {code}", *words)
    return known(*words)


def fate_of(error: kafka.KafkaError) -> Fate:
    """What became of a batch that was answered with `error`."""
    if isinstance(error, _STORED):
        return Fate.STORED
    if isinstance(error, (*TOO_LARGE, *_HOPELESS, kafka.InvalidTimestampError)):
        return Fate.REFUSED
    if isinstance(error, _FORGOTTEN):
        return Fate.FORGOTTEN
    return Fate.NOT_YET if isinstance(error, _NOT_YET) else Fate.OPEN


def driver_error(error: BaseException, doing: str) -> DriverError:
    """What `error`, raised while `doing` something, means for the runtime. Never holds what the broker was told."""
    if isinstance(error, DriverError):
        return error
    text = _text_of(error)
    if isinstance(error, TOO_LARGE):
        return RecordTooLarge(f"kafka: {doing}: {text}")
    if isinstance(error, _HOPELESS):
        return DriverRejected(f"kafka: {doing}: {text}")
    return DriverUnavailable(f"kafka: {doing}: {text}")


def _text_of(error: BaseException) -> str:
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(error, asyncio.CancelledError):
        return "the client gave up"
    advice = _ADVICE.get(type(error))
    name = type(error).__name__
    if advice is not None and not (isinstance(error, InvalidRecord) and error.args):
        return f"{name}: {advice}"
    # Only the first line, and not the class's essay on itself, which aiokafka puts into str().
    words = " ".join(str(arg) for arg in error.args if isinstance(arg, str | int))
    return f"{name}: {words.splitlines()[0][:200]}" if words else name
