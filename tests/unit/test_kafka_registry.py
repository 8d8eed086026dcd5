"""Whether a topic is there, as brokers tell it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hexa_worker.config.kafka import Kafka
from hexa_worker.drivers.kafka.connection import KafkaConnection
from hexa_worker.drivers.kafka.registry import Registry
from hexa_worker.drivers.kafka.topics import TopicAdmin
from hexa_worker.errors import DriverUnavailable
from tests.drivers.consuming import spec

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
ONE = spec("orders", retry_count=0)
UNTOLD: tuple[int, list[Any]] = (5, [])
TOLD: tuple[int, list[Any]] = (0, [{"leader": 1}])
"""Error code and partitions of a topic: without a leader yet, and with one."""


class Admin:
    """An admin client to which brokers tell of each topic of `ONE` the same, one answer after the other."""

    def __init__(self, *answers: tuple[int, list[Any]]) -> None:
        self._answers = list(answers)
        self._client = SimpleNamespace(_sync_task=None, _md_update_fut=None, _conns={})

    async def _send_request(self, _: Any) -> Any:
        code, partitions = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        names = (*ONE.channels, ONE.dead_letter_channel)
        topics = [{"topic": name, "error_code": code, "partitions": partitions} for name in names]
        return SimpleNamespace(brokers=[1], to_object=lambda: {"topics": topics})

    async def close(self) -> None:
        """It has nothing to close."""


def registry(admin: Any) -> Registry:
    may_make_nothing = Kafka(servers=("nowhere:1",), create_retry_channels=False, timeout_s=0.2)
    topics = TopicAdmin(KafkaConnection(may_make_nothing, Path()))
    topics._client = admin
    return Registry(topics, may_make_nothing)


async def test_a_topic_that_has_no_leader_yet_is_waited_for() -> None:
    assert await registry(Admin(UNTOLD, UNTOLD, TOLD)).ensure([ONE]) == frozenset()


async def test_a_topic_that_gets_no_leader_is_unavailable_and_not_missing() -> None:
    with pytest.raises(DriverUnavailable, match="no leader for topic orders"):
        await registry(Admin(UNTOLD)).ensure([ONE])
