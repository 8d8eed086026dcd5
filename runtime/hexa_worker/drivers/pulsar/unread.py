"""What is published where nobody has subscribed yet: kept, or refused, but not lost without a word.

Brokers drop what no subscription waits for, and after a while the topic itself. So whoever publishes first makes a
subscription that holds everything until somebody has one of their own. Blocking; for threads.
"""

import logging
import threading
from contextlib import suppress
from time import monotonic
from typing import Any

import pulsar

from hexa_worker.core.channels import is_dead_letter_channel
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.connection import PulsarConnection
from hexa_worker.drivers.pulsar.dead_letter_reader import keep
from hexa_worker.drivers.pulsar.errors import name_of, translate
from hexa_worker.drivers.pulsar.names import DEAD_LETTER_SUBSCRIPTION, UNREAD_SUBSCRIPTION
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

MOST = 100
"""Channels without a subscription that one process keeps: more look like names that are made up as it goes."""
LOOK_S = 60.0
"""So often it is looked again: topics are removed and made anew, subscriptions come and go."""
log = logging.getLogger("hexa_worker.drivers.pulsar")


class Unread:
    """Sees to channels that are published to.

    Args:
        connection: the client.
        admin: tells who has subscribed.
        mode: ``keep``, ``refuse`` or ``drop`` what nobody has subscribed to.
    """

    def __init__(self, connection: PulsarConnection, admin: Admin, mode: str) -> None:
        self._connection = connection
        self._admin = admin
        self._mode = mode
        self._kept: set[str] = set()
        self._warned = False
        self._blind_until = 0.0
        self._lock = threading.Lock()

    def see_to(self, topic: str) -> None:
        """Let what is published to a topic from now on wait for whoever reads it.

        Raises:
            DriverRejected: it would be lost.
            DriverUnavailable: a broker does not answer.
        """
        letters_there = is_dead_letter_channel(topic)
        if (self._mode == "drop" and not letters_there) or monotonic() < self._blind_until:
            return
        try:
            parts = self._admin.parts(topic)
        except DriverUnavailable:
            return  # it is asked again soon
        except DriverRejected as error:
            self._warn(error)
            return
        each = [_durable(stats) for stats in parts.values()]
        everywhere = frozenset[str]().union(*each) if all(each) else frozenset[str]()
        if letters_there:
            if any(DEAD_LETTER_SUBSCRIPTION not in names for names in each) or not each:
                self._subscribe(topic, DEAD_LETTER_SUBSCRIPTION)
        elif everywhere - {UNREAD_SUBSCRIPTION}:
            if UNREAD_SUBSCRIPTION in everywhere:
                self.release(topic)
        elif not everywhere:
            self._keep(topic)

    def _keep(self, topic: str) -> None:
        channel = self._connection.topics.channel(topic)
        nobody = f"pulsar: nobody has subscribed to {channel}: the brokers would drop what is published to it"
        if self._mode == "refuse":
            raise DriverRejected(f"{nobody} (start its worker first, or change broker.unread)")
        with self._lock:
            if topic not in self._kept and len(self._kept) >= MOST:
                raise DriverRejected(
                    f"{nobody}, and {MOST} such channels are kept already (start their workers, or set broker.unread "
                    'to "drop")'
                )
        try:
            self._subscribe(topic, UNREAD_SUBSCRIPTION)
        except DriverRejected as error:
            raise DriverRejected(f"{nobody}, and it cannot be kept: {error} (start its worker first)") from error
        with self._lock:
            self._kept.add(topic)
        log.warning(
            "pulsar: nobody has subscribed to %s yet: its subscription %s keeps what is published to it until a worker "
            "reads it (broker.unread)",
            channel,
            UNREAD_SUBSCRIPTION,
        )

    def _subscribe(self, topic: str, subscription: str) -> None:
        """Make a subscription that keeps everything from the oldest on."""
        try:
            keep(self._connection.client, topic, subscription).close()
        except pulsar.PulsarException as error:
            if name_of(error) != "ConsumerBusy":  # somebody uses it: it exists
                raise translate(error, f"publish to {self._connection.topics.channel(topic)}") from error

    def keeps(self, topic: str) -> bool:
        """Whether something is kept there for who subscribes: when it was published, nobody had."""
        with suppress(DriverError):
            return any(
                UNREAD_SUBSCRIPTION in stats.get("subscriptions", {}) for stats in self._admin.parts(topic).values()
            )
        return False

    def release(self, topic: str) -> None:
        """Somebody has subscribed to a topic: nothing needs to be kept for others any more."""
        with self._lock:
            self._kept.discard(topic)
        try:
            self._admin.unsubscribe(topic, UNREAD_SUBSCRIPTION)
        except DriverError:  # the admin API cannot be had
            with suppress(pulsar.PulsarException, DriverError):  # it is tried again by whoever publishes there
                keep(self._connection.client, topic, UNREAD_SUBSCRIPTION).unsubscribe()

    def _warn(self, error: DriverError) -> None:
        self._blind_until = monotonic() + LOOK_S
        if not self._warned:
            self._warned = True
            log.warning(
                "pulsar: cannot tell whether somebody has subscribed to the channels that are published to; what is "
                "published before is lost: %s",
                error,
            )


def _durable(stats: Any) -> frozenset[str]:
    """The subscriptions of a topic that outlive their consumers; looking at a topic makes others."""
    found = stats.get("subscriptions", {})
    return frozenset(name for name, one in found.items() if one.get("isDurable", one.get("durable", True)))
