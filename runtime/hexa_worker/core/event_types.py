"""Several types of events on one channel: which type an event has, and what order means between types. Pure."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from hexa_worker.core.message import Delivery, header
from hexa_worker.core.ordering import OrderBy, OrderKey, order_key

TypeReader = Callable[[Delivery], str | None]
"""The type of an event; None: it has none that could be read."""
ANY_OTHER = "*"
"""The type of all events that no other handler is for."""


def type_reader(source: str, codec: str) -> TypeReader:
    """Reads the type of an event as ``header:NAME`` or ``payload:FIELD`` says.

    Args:
        source: where it stands; a field may be inside of others, ``payload:event.kind``.
        codec: of the payload: ``json`` or ``msgpack``.
    """
    kind, _, name = source.partition(":")
    return _from_header(name) if kind == "header" else _from_field(name, codec)


def _from_header(name: str) -> TypeReader:
    def read(delivery: Delivery) -> str | None:
        value = header(delivery.headers, name)
        return None if value is None else value.decode(errors="replace")

    return read


def _from_field(path: str, codec: str) -> TypeReader:
    names = path.split(".")
    fields: Any = Any
    for name in reversed(names):
        fields = msgspec.defstruct("Fields", [("value", fields, None)], rename={"value": name})
    decoder: Any = msgspec.json.Decoder(fields) if codec == "json" else msgspec.msgpack.Decoder(fields)

    def read(delivery: Delivery) -> str | None:
        try:
            value = decoder.decode(delivery.payload)
            for _ in names:
                value = value.value
        except (msgspec.MsgspecError, AttributeError, RecursionError):
            return None
        return value if isinstance(value, str) else None

    return read


class Dealer:
    """Deals the events of one source out to the actions of their types, and keeps the order between them.

    An event waits while an action has an earlier one of its key, unless it is for the same action and nothing waits
    before it: an action keeps the order of what it has itself.

    Args:
        read: tells the type of an event.
        actions: the action of each type.
        others: the action of all other types.
        order_by: what keeps its order.

    Attributes:
        ready: what each action may have now, in order.
    """

    def __init__(self, read: TypeReader, actions: dict[str, str], others: str, order_by: OrderBy) -> None:
        self.ready: dict[str, deque[Delivery]] = {action: deque() for action in {*actions.values(), others}}
        self._read = read
        self._actions = actions
        self._others = others
        self._order_by = order_by
        self._owners: dict[OrderKey, tuple[str, int]] = {}  # which action has so many of a key
        self._lines: dict[OrderKey, deque[tuple[str, Delivery]]] = {}  # what waits for that
        self._waiting = 0  # in all lines

    def __len__(self) -> int:
        """How many events no action has yet."""
        return self._waiting + sum(map(len, self.ready.values()))

    def deal(self, batch: Sequence[Delivery]) -> None:
        """Received events become ready, or wait."""
        for delivery in batch:
            type_ = self._read(delivery)
            action = self._others if type_ is None else self._actions.get(type_, self._others)
            key = order_key(self._order_by, delivery.key, delivery.channel)
            if key is None:
                self.ready[action].append(delivery)
                continue
            owner, count = self._owners.get(key, (action, 0))
            if owner == action and key not in self._lines:
                self._owners[key] = (action, count + 1)
                self.ready[action].append(delivery)
            else:
                self._lines.setdefault(key, deque()).append((action, delivery))
                self._waiting += 1

    def finish(self, delivery: Delivery) -> None:
        """An action is done with an event: what waited for it may become ready."""
        key = order_key(self._order_by, delivery.key, delivery.channel)
        if key is None or key not in self._owners:
            return
        owner, count = self._owners.pop(key)
        if count > 1:
            self._owners[key] = (owner, count - 1)
        else:
            self._go_on(key)

    def release(self, delivery: Delivery) -> list[Delivery]:
        """An event that an action has comes again: so must all of its key that no action has yet.

        Returns those, in their order; they are forgotten here.
        """
        key = order_key(self._order_by, delivery.key, delivery.channel)
        if key is None or key not in self._owners:
            return []
        owner, count = self._owners.pop(key)
        gone = self._pull(owner, lambda one: order_key(self._order_by, one.key, one.channel) == key)
        count -= 1 + len(gone)
        if count > 0:
            self._owners[key] = (owner, count)
        line = [one for _, one in self._lines.pop(key, ())]
        self._waiting -= len(line)
        return gone + line

    def take(self, sources: frozenset[str]) -> list[Delivery]:
        """Take back what came from `sources` and no action has yet."""
        taken: list[Delivery] = []
        for key, line in list(self._lines.items()):
            gone = [one for _, one in line if one.source in sources]
            taken += gone
            self._waiting -= len(gone)
            self._lines[key] = deque(one for one in line if one[1].source not in sources)
            if not self._lines[key]:
                del self._lines[key]
        for action in self.ready:
            ready = self._pull(action, lambda one: one.source in sources)
            for delivery in ready:
                self.finish(delivery)
            taken += ready
        return taken

    def _pull(self, action: str, wanted: Callable[[Delivery], bool]) -> list[Delivery]:
        queue = self.ready[action]
        pulled = [delivery for delivery in queue if wanted(delivery)]
        if pulled:
            kept = [delivery for delivery in queue if not wanted(delivery)]
            queue.clear()
            queue.extend(kept)
        return pulled

    def _go_on(self, key: OrderKey) -> None:
        line = self._lines.get(key)
        if line is None:
            return
        action, count = line[0][0], 0
        while line and line[0][0] == action:
            self.ready[action].append(line.popleft()[1])
            count += 1
        self._waiting -= count
        self._owners[key] = (action, count)
        if not line:
            del self._lines[key]
