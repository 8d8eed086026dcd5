"""How a subscription is had from the brokers: its type, its consumers' options, its topics."""

from collections.abc import Sequence
from typing import Any

import pulsar

from hexa_worker.config.pulsar import PulsarSubscription
from hexa_worker.core.ordering import OrderBy
from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.pulsar.backlog import OWNER
from hexa_worker.drivers.pulsar.consumer import FILL_MS

BATCH_BYTES = 8 * 1024 * 1024
TYPES = {
    "shared": pulsar.ConsumerType.Shared,
    "key_shared": pulsar.ConsumerType.KeyShared,
    "exclusive": pulsar.ConsumerType.Exclusive,
    "failover": pulsar.ConsumerType.Failover,
}
_BY_ORDER = {OrderBy.NONE: "shared", OrderBy.KEY: "key_shared", OrderBy.CHANNEL: "exclusive"}


def own_options(spec: SubscriptionSpec) -> PulsarSubscription:
    return spec.options if isinstance(spec.options, PulsarSubscription) else PulsarSubscription()


class ConsumerSettings:
    """On what terms a subscription is had.

    Args:
        spec: the subscription.
        owner: tells its consumers from those of other processes.
    """

    def __init__(self, spec: SubscriptionSpec, owner: str = "") -> None:
        options = own_options(spec)
        self.options = options
        self.name = options.subscription or spec.group
        self.type = options.type or _BY_ORDER[spec.order_by]
        self.standby = options.type is None and self.type == "exclusive"
        self.batch_bytes = max(min(BATCH_BYTES, spec.mailbox_bytes // 8), 1)
        """How much is taken from the client library at once, about."""
        self._start = spec.start
        self._properties = {**options.properties, **({OWNER: owner} if owner else {})}

    @property
    def delays(self) -> bool:
        """The broker keeps what is not due; otherwise it comes at once, and waits in this process."""
        return self.type in {"shared", "key_shared"}

    @property
    def alone(self) -> bool:
        """One process has a topic for itself."""
        return self.type == "exclusive"

    def subscribe(self, client: Any, queue: int = 1, *, topics: Sequence[str], start: str = "") -> Any:
        """A consumer of the subscription's channels that fetches `queue` messages of each ahead."""
        more = {"consumer_type": TYPES[self.type], "is_read_compacted": self.options.read_compacted}
        return self._consumer(client, topics, queue, start or self._start, **more)

    def subscribe_retries(self, client: Any, queue: int = 1, *, topics: Sequence[str]) -> Any:
        """A consumer of its retry channels: only shared subscriptions know delays."""
        return self._consumer(client, topics, queue, "earliest", consumer_type=TYPES["shared"])

    def _consumer(self, client: Any, topics: Sequence[str], queue: int, start: str, **more: Any) -> Any:
        position = pulsar.InitialPosition.Earliest if start == "earliest" else pulsar.InitialPosition.Latest
        return client.subscribe(
            topics[0] if len(topics) == 1 else list(topics),
            self.name,
            initial_position=position,
            receiver_queue_size=queue,
            batch_receive_policy=pulsar.ConsumerBatchReceivePolicy(
                self.options.batch_receive, self.batch_bytes, FILL_MS
            ),
            batch_index_ack_enabled=True,
            properties=self._properties or None,
            crypto_failure_action=pulsar.ConsumerCryptoFailureAction.CONSUME,  # or nobody ever hears of it
            **more,
        )
