"""What a login may do, as brokers tell since Kafka 2.3 (KIP-430): two requests that aiokafka does not have."""

from collections.abc import Sequence
from typing import Any

from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

FETCH = 1
_METADATA, _DESCRIBE_GROUPS = 3, 15
_NOT_TOLD = -(2**31)
_RIGHTS = {
    3: "read",
    4: "write",
    5: "create",
    6: "delete",
    7: "alter",
    8: "describe",
    9: "cluster action",
    10: "describe configs",
    11: "alter configs",
}


def rights_of(bits: int) -> frozenset[str]:
    """The names of the rights in a bit field; empty where the broker does not tell."""
    return frozenset() if bits == _NOT_TOLD else frozenset(name for bit, name in _RIGHTS.items() if bits >> bit & 1)


class _TopicsAnswer(Response):  # type: ignore[misc]  # aiokafka is not typed
    API_KEY = _METADATA
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _TopicsQuestion(RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = _METADATA
    API_VERSION = 8
    RESPONSE_TYPE = _TopicsAnswer
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class LookAtTopics(Request[_TopicsQuestion]):  # type: ignore[misc]  # as above
    """Asks about topics by name; makes none.

    Args:
        topics: their names.
    """

    API_KEY = _METADATA

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, question: Any) -> Any:
        return question(self._topics, False, True, True)  # noqa: FBT003 - the order of the schema


class _GroupQuestion(RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = _DESCRIBE_GROUPS
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3  # aiokafka's own request reads the answer as version 2
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class LookAtGroup(Request[_GroupQuestion]):  # type: ignore[misc]  # as above
    """Asks about a consumer group.

    Args:
        group: its name.
    """

    API_KEY = _DESCRIBE_GROUPS

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, question: Any) -> Any:
        return question([self._group], True)  # noqa: FBT003 - the order of the schema
