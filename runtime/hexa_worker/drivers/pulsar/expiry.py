"""What brokers drop by rule before it is done: message TTLs, backlog quotas that evict. Blocking; for threads.

A TTL counts from when a message was written, whether somebody waits for it or not. Retries wait by design and dead
letters wait for people, so their topics get none. The events' own topics are the operator's: what may be lost is said.
"""

import logging
import threading
from collections.abc import Sequence
from time import monotonic

from hexa_worker.drivers.base import SubscriptionSpec
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.names import TopicNames
from hexa_worker.errors import DriverError, DriverRejected

APPLIED_S = 1.0
"""Brokers heed a new rule of a topic within this long."""
log = logging.getLogger("hexa_worker.drivers.pulsar")


class Expiry:
    """Reads the rules of topics, and takes away those that would lose retries and dead letters.

    Args:
        admin: the REST API.
        topics: the names.
    """

    def __init__(self, admin: Admin, topics: TopicNames) -> None:
        self._admin = admin
        self._topics = topics

    def settle(self, spec: SubscriptionSpec) -> None:
        """Let retries and dead letters of a subscription wait as long as they must.

        Its topics exist. What cannot be read or changed is a warning.
        """
        failures = [spec.dead_letter_channel, *spec.retry_channels]
        try:
            if self._admin.message_ttl(self._topics.topic(failures[0])):
                self._keep(failures)
        except DriverRejected as error:
            log.info("pulsar: cannot tell whether the brokers drop what waits for %s: %s", spec.action, error)
        except DriverError as error:
            log.warning("pulsar: cannot tell whether the brokers drop what waits for %s: %s", spec.action, error)

    def _keep(self, failures: Sequence[str]) -> None:
        """Take the TTL from topics of retries and dead letters."""
        for channel in failures:
            topic = self._topics.topic(channel)
            ttl_s = self._admin.message_ttl(topic)
            if not ttl_s:
                continue
            try:
                self._admin.keep_for_good(topic)
            except DriverError as error:
                log.warning(
                    "pulsar: %s: the brokers drop what waits there for more than %d s (message TTL): retries and dead "
                    "letters will be lost, and that cannot be changed from here: %s (pulsar-admin topics "
                    "set-message-ttl --ttl 0 %s)",
                    channel,
                    ttl_s,
                    error,
                    topic,
                )
            else:
                self._wait_applied(topic)
                log.info("pulsar: %s: its messages have no TTL any more (it was %d s)", channel, ttl_s)

    def _wait_applied(self, topic: str) -> None:
        deadline = monotonic() + APPLIED_S
        while self._admin.message_ttl(topic) and monotonic() < deadline:
            threading.Event().wait(0.05)

    def risk(self, channel: str) -> str:
        """What of an existing channel may be lost by the brokers' rules; empty: nothing.

        Raises:
            DriverError: the admin API does not tell.
        """
        topic = self._topics.topic(channel)
        ttl_s = self._admin.message_ttl(topic)
        if ttl_s:
            return f"events that wait for more than {ttl_s} s are lost (message TTL of the namespace or topic)"
        if self._admin.evicts(topic):
            return "events that wait are lost when the backlog quota is used up (policy consumer_backlog_eviction)"
        return ""
