"""The brokers' REST API: what the binary protocol does not tell. Blocking; for threads."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any
from urllib.parse import quote

from hexa_worker.config.pulsar import Pulsar
from hexa_worker.core.scrubbing import scrub
from hexa_worker.drivers.pulsar.names import TopicNames, whole_topic
from hexa_worker.drivers.pulsar.security import Security, addresses
from hexa_worker.errors import DriverRejected, DriverUnavailable

MUTE_S = 30.0
"""An address that never answered and lets everybody wait is asked again after so long."""
_CONFLICT = 409
_MISSING = 404
_DENIED = frozenset({401, 403})


class Admin:
    """Asks the REST API.

    Args:
        options: the broker's table.
        security: login and TLS.
        topics: the names.
    """

    def __init__(self, options: Pulsar, security: Security, topics: TopicNames) -> None:
        self._given = options.admin_url is not None
        self.url = (options.admin_url or default_url(options.url)).rstrip("/")
        self._timeout_s = options.timeout_s
        self._security = security
        self._topics = topics
        self._answered = False
        self._mute_until = 0.0

    def topic_stats(self, topic: str) -> Mapping[str, Any] | None:
        """Statistics of a topic or partition; None: it does not exist."""
        found = self._ask("GET", f"{_path(topic)}/stats?getPreciseBacklog=true")
        return found if isinstance(found, dict) else None

    def parts(self, topic: str) -> Mapping[str, Mapping[str, Any]]:
        """The topics that exist behind a name, with their statistics: one, its partitions, or none. Makes nothing."""
        stats = self.topic_stats(topic)
        if stats is not None:
            return {topic: stats}
        return {name: self.topic_stats(name) or {} for name in self.part_names(topic) if name != topic}

    def part_names(self, topic: str) -> Sequence[str]:
        """The names of a topic's partitions, or its own if it has none, whether it exists or not."""
        return [f"{topic}-partition-{number}" for number in range(self.partitions(topic))] or [topic]

    def partitions(self, topic: str) -> int:
        """How many partitions a partitioned topic has; 0: it is none, or does not exist."""
        found = self._ask("GET", f"{_path(topic)}/partitions")
        return int(found.get("partitions", 0)) if isinstance(found, dict) else 0

    def unsubscribe(self, topic: str, subscription: str) -> None:
        """Remove a subscription that nobody reads, if it is there."""
        self._ask("DELETE", _subscription(topic, subscription))

    def subscriptions(self, topic: str) -> Sequence[str]:
        """The names of the subscriptions of a topic or partition."""
        return self._ask("GET", f"{_path(topic)}/subscriptions") or ()

    def make_subscription(
        self, topic: str, subscription: str, first: tuple[int, int], properties: Mapping[str, str]
    ) -> None:
        """Let a subscription begin with a message (its ledger and entry; -1 and -1: the oldest), unless it exists."""
        self._ask("PUT", _subscription(topic, subscription), _at(first, properties=properties))

    def reset_subscription(self, topic: str, subscription: str, first: tuple[int, int]) -> None:
        """Let a subscription go on with a message; its consumers connect again."""
        self._ask("POST", f"{_subscription(topic, subscription)}/resetcursor", _at(first))

    def subscription_properties(self, topic: str, subscription: str) -> Mapping[str, str]:
        """What a subscription has been given; nothing of one that does not exist."""
        return self._ask("GET", f"{_subscription(topic, subscription)}/properties") or {}

    def describe_subscription(self, topic: str, subscription: str, properties: Mapping[str, str]) -> None:
        """Give a subscription properties, instead of those it has."""
        self._ask("PUT", f"{_subscription(topic, subscription)}/properties", json.dumps(properties).encode())

    def properties(self, topic: str) -> Mapping[str, str]:
        """What a topic or partition has been given; nothing of one that does not exist."""
        return self._ask("GET", f"{_path(topic)}/properties") or {}

    def set_properties(self, topic: str, properties: Mapping[str, str]) -> None:
        """Give a topic or partition properties, beside others that it has."""
        self._ask("PUT", f"{_path(topic)}/properties", json.dumps(properties).encode())

    def internal_stats(self, topic: str) -> Mapping[str, Any] | None:
        """How a topic or partition is stored, and where its subscriptions stand; None: it does not exist."""
        found = self._ask("GET", f"{_path(topic)}/internalStats")
        return found if isinstance(found, dict) else None

    def entries(self, topic: str) -> int:
        """How many entries (messages, or batches of them) a topic or partition keeps."""
        return int((self.internal_stats(topic) or {}).get("numberOfEntries", 0))

    def entry_size(self, topic: str) -> float:
        """How many bytes an entry of a topic or partition has; 0: it has none."""
        found = self.internal_stats(topic) or {}
        entries = int(found.get("numberOfEntries", 0))
        return int(found.get("totalSize", 0)) / entries if entries else 0.0

    def message_ttl(self, topic: str) -> int:
        """After how many seconds the brokers drop what waits in a topic, by whichever rule; 0: never."""
        return int(self._ask("GET", f"{_path(whole_topic(topic))}/messageTTL?applied=true") or 0)

    def keep_for_good(self, topic: str) -> None:
        """Let an existing topic have no message TTL, whatever its namespace has."""
        self._ask("POST", f"{_path(whole_topic(topic))}/messageTTL?messageTTL=0", b"")

    def evicts(self, topic: str) -> bool:
        """Whether the brokers drop what waits in a topic when there is too much of it."""
        quotas = self._ask("GET", f"{_path(whole_topic(topic))}/backlogQuotaMap?applied=true") or {}
        return any(one.get("policy") == "consumer_backlog_eviction" for one in quotas.values() if one)

    def retention(self, topic: str) -> tuple[int, int]:
        """For how many minutes, and MB, a topic keeps what every subscription is done with; -1: without limit."""
        found = self._ask("GET", f"{_path(whole_topic(topic))}/retention?applied=true") or {}
        return int(found.get("retentionTimeInMinutes", 0)), int(found.get("retentionSizeInMB", 0))

    def messages_in_backlog(self, topic: str, subscription: str) -> int | None:
        """How many messages a subscription has not acknowledged, counted by reading them; None: not known."""
        found = self._ask("POST", f"{_subscription(topic, subscription)}/analyzeBacklog", b"")
        if not isinstance(found, dict) or found.get("aborted"):
            return None
        return int(found.get("messages", 0))

    def channels(self) -> list[str]:
        """The channels whose topics are in the default namespace, sorted."""
        found: list[str] = []
        for path in ("", "/partitioned"):
            found += self._ask("GET", f"/admin/v2/persistent/{self._topics.namespace}{path}") or []
        names = {self._topics.channel(topic) for topic in found}
        return sorted(name for name in names if not name.startswith("__") and "://" not in name)

    def make_partitions(self, topic: str, partitions: int) -> None:
        """Make a partitioned topic unless there is a topic of this name."""
        self._ask("PUT", f"{_path(whole_topic(topic))}/partitions", str(partitions).encode())

    def version(self) -> str:
        return str(self._ask("GET", "/admin/v2/brokers/version", text=True) or "").strip()

    def _ask(self, method: str, path: str, body: bytes | None = None, *, text: bool = False) -> Any:
        """The answer; None when what is asked about does not exist, or what is to be made does."""
        if monotonic() < self._mute_until:
            raise self._unreachable(TimeoutError())
        request = urllib.request.Request(self.url + path, data=body, method=method)  # noqa: S310 - checked by the model
        request.add_header("Content-Type", "application/json")
        token = self._security.token
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.url.startswith("https://"):
            handlers.append(urllib.request.HTTPSHandler(context=self._security.context()))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=self._timeout_s) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            self._answered = True
            return self._refused(error.code, error.reason)
        except (OSError, http.client.HTTPException) as error:  # the latter: the answer broke off
            if not self._answered and isinstance(getattr(error, "reason", error), TimeoutError):
                self._mute_until = monotonic() + MUTE_S
            raise self._unreachable(error) from error
        self._answered = True
        if text:
            return content.decode(errors="replace")
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise DriverRejected(f"pulsar: {scrub(self.url)} is not the admin API (set broker.admin_url)") from error

    def _refused(self, code: int, reason: str) -> None:
        if code in {_MISSING, _CONFLICT}:
            return
        if code in _DENIED:
            raise DriverRejected(f"pulsar: the admin API at {scrub(self.url)} refuses this login ({code} {reason})")
        raise DriverUnavailable(f"pulsar: the admin API at {scrub(self.url)} answers {code} {reason}")

    def _unreachable(self, error: Exception) -> DriverRejected | DriverUnavailable:
        cause = getattr(error, "reason", error)
        why = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or type(cause).__name__
        text = f"pulsar: the admin API at {scrub(self.url)} cannot be reached: {why}"
        if self._given or self._answered:  # it is the admin API, and away
            return DriverUnavailable(text)
        return DriverRejected(f"{text} (set broker.admin_url)")


def default_url(url: str) -> str:
    """Where brokers have their REST API unless they were told otherwise."""
    host = addresses(url)[0][0]
    host = f"[{host}]" if ":" in host else host
    return f"https://{host}:8443" if url.startswith("pulsar+ssl://") else f"http://{host}:8080"


def _path(topic: str) -> str:
    tenant, namespace, name = topic.removeprefix("persistent://").split("/", 2)
    return f"/admin/v2/persistent/{tenant}/{namespace}/{quote(name, safe='')}"


def _subscription(topic: str, name: str) -> str:
    return f"{_path(topic)}/subscription/{quote(name, safe='')}"


def _at(message: tuple[int, int], **more: Any) -> bytes:
    """The place of a message, as a request's body."""
    ledger, entry = message
    return json.dumps({"ledgerId": ledger, "entryId": entry, "partitionIndex": -1, **more}).encode()
