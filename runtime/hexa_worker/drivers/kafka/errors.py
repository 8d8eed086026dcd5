"""Errors of aiokafka, mapped onto the runtime's own. Nothing else in the driver decides what an error means."""

import asyncio

from aiokafka import errors as kafka

from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge

REBUILD_PRODUCER = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.ProducerFenced,
    kafka.ProducerClosed,
)
"""After one of these an idempotent producer is of no more use; a new one is."""

TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)

_HOPELESS = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.InvalidTopicError,
    kafka.InvalidTimestampError,
    kafka.InvalidGroupIdError,
    kafka.InvalidSessionTimeoutError,
    kafka.InconsistentGroupProtocolError,
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
    kafka.InconsistentGroupProtocolError: "the group's other members assign partitions in another way",
    kafka.InvalidSessionTimeoutError: "the broker does not allow that session_timeout_s",
    kafka.SaslAuthenticationFailed: "the login was refused (look at broker.sasl)",
    kafka.UnsupportedSaslMechanismError: "the broker does not offer that login mechanism (broker.sasl.mechanism)",
    kafka.IncompatibleBrokerVersion: "the broker is too old for this client",
    kafka.MessageSizeTooLargeError: "the record is larger than the topic allows",
}


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
    if advice is not None:
        return f"{name}: {advice}"
    # Only the first line, and not the class's essay on itself, which aiokafka puts into str().
    words = " ".join(str(arg) for arg in error.args if isinstance(arg, str | int))
    return f"{name}: {words.splitlines()[0][:200]}" if words else name
