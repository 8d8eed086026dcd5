"""How messages are written for pulsar and read back, and what their places are called."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pulsar")

import _pulsar

from hexa_worker.core.message import Message
from hexa_worker.drivers.pulsar.batch_acks import MANY, BatchAcks, BatchEntry
from hexa_worker.drivers.pulsar.client_internals import size_of
from hexa_worker.drivers.pulsar.names import TopicNames, place, place_of
from hexa_worker.drivers.pulsar.wire import build, due_of, headers_of, key_of, properties_of
from hexa_worker.errors import DriverRejected

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20) | st.sampled_from(
    ["hexa-key", "hexa-more", "hexa-due-ms", "hexa-marker", "a", "b"]
)
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=30)), max_size=8)


def written(message: Message) -> Any:
    return build(message, 0, 0)


@given(HEADERS, st.none() | st.binary(max_size=20), st.binary(max_size=100), st.integers(0, 10**14))
def test_what_is_written_is_read_back(
    headers: list[tuple[str, bytes]], key: bytes | None, payload: bytes, due_ms: int
) -> None:
    made = written(Message(channel="c", payload=payload, key=key, headers=tuple(headers), due_ms=due_ms))
    properties = made.properties()
    assert sorted(headers_of(properties)) == sorted(headers)
    assert key_of(properties, made.partition_key()) == key
    assert (made.data(), due_of(properties)) == (payload, due_ms)


@given(st.lists(st.tuples(st.just("same"), st.binary(max_size=5)), max_size=5))
def test_repeated_headers_keep_their_order(headers: list[tuple[str, bytes]]) -> None:
    assert headers_of(written(Message(channel="c", payload=b"", headers=tuple(headers))).properties()) == tuple(headers)


def test_others_can_read_a_text_header_and_a_text_key() -> None:
    made = written(Message(channel="c", payload=b"", key="klíč".encode(), headers=(("color", "žlutá".encode()),)))
    assert (made.properties(), made.partition_key()) == ({"color": "žlutá"}, "klíč")


def test_a_key_of_any_bytes_has_a_partition_key_so_that_it_is_routed() -> None:
    for key in (b"", b"\xff", b"\0"):
        assert properties_of(Message(channel="c", payload=b"", key=key))[1]


def test_a_message_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(DriverRejected, match="limit"):
        written(Message(channel="c", payload=b"", headers=(("big", b"x" * 6_000_000),)))
    with pytest.raises(DriverRejected, match="text"):
        written(Message(channel="c", payload=b"", headers=(("\ud800", b""),)))


@pytest.mark.parametrize("text", ["", "-1", "1e9", "9" * 16, "¹", "x"])
def test_a_due_time_from_outside_that_is_none_counts_as_none(text: str) -> None:
    assert due_of({"hexa-due-ms": text}) == 0


PLACES = st.tuples(st.integers(0, 2**40), st.integers(0, 2**30), st.integers(-1, 2**14))


@given(PLACES, PLACES)
def test_no_two_messages_are_called_the_same(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    def alike(where: tuple[int, int, int]) -> tuple[int, int, int]:
        return where[0], where[1], max(where[2], 0)

    assert (place(*one) == place(*other)) == (alike(one) == alike(other))


@given(PLACES)
def test_an_offset_fits_into_63_bits(where: tuple[int, int, int]) -> None:
    assert 0 <= place(*where)[1] < 2**63


@given(st.integers(0, 2**27 - 1), st.integers(0, 2**25 - 1), st.integers(0, 2**11 - 1))
def test_offsets_of_ordinary_places_are_reversible_and_grow(ledger: int, entry: int, index: int) -> None:
    addition, offset = place(ledger, entry, index)
    assert (addition, place_of(offset)) == ("", (ledger, entry, index))
    if entry:
        assert place(ledger, entry - 1, 2**11 - 1)[1] < offset
    if ledger:
        assert place(ledger - 1, 2**25 - 1, index)[1] < offset


def test_topics_and_channels() -> None:
    topics = TopicNames("persistent://shop/live/v1.{}")
    assert topics.topic("orders") == "persistent://shop/live/v1.orders"
    assert topics.channel("persistent://shop/live/v1.orders-partition-3") == "orders"
    assert topics.source("persistent://shop/live/v1.orders-partition-3") == "orders-partition-3"
    elsewhere = "persistent://shop/other/orders"
    assert (topics.topic(elsewhere), topics.channel(elsewhere), topics.source(elsewhere)) == (elsewhere,) * 3
    assert topics.channel("persistent://shop/live/other") == "persistent://shop/live/other"


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a\nb", "a-partition-1", "x" * 1001, "\ud800", "persistent://a/b", "persistent://a/b/c/d"]
)
def test_a_name_that_cannot_be_a_topic_is_refused(name: str) -> None:
    with pytest.raises(DriverRejected):
        TopicNames("persistent://public/default/{}").topic(name)


# -- acknowledging whole entries


def message_id(entry: int, index: int) -> Any:
    return _pulsar.MessageId(-1, 7, entry, index)


def entry_of(number: int, size: int) -> BatchEntry:
    entry = BatchEntry(message_id(number, 0), "persistent://public/default/t")
    entry.left = size
    return entry


def places(ids: list[Any]) -> list[tuple[int, int]]:
    return [(one.entry_id(), one.batch_index()) for one in ids]


def settled(entry: BatchEntry, number: int, indexes: range) -> list[Any]:
    return [(("t", number * 1000 + index), (message_id(number, index), entry)) for index in indexes]


def test_the_size_of_an_entry_is_read_from_an_id() -> None:
    class Serialized:
        def serialize(self) -> bytes:
            return bytes.fromhex("08e41210002005309205")

    assert size_of(Serialized()) == 658
    assert size_of(message_id(1, 3)) > 10**9  # not written down: never taken for whole


def test_a_whole_entry_is_acknowledged_as_one() -> None:
    acknowledgements, entry = BatchAcks(), entry_of(1, 2 * MANY)
    assert acknowledgements.add(settled(entry, 1, range(MANY))) == []
    assert ("t", 1000) in acknowledgements.done
    assert places(acknowledgements.add(settled(entry, 1, range(MANY, 2 * MANY)))) == [(1, -1)]
    assert acknowledgements.done == set()
    assert acknowledgements.overdue(everything=True) == []


def test_an_entry_that_is_not_done_is_never_acknowledged_as_a_whole() -> None:
    acknowledgements, entry = BatchAcks(), entry_of(1, 2 * MANY)
    acknowledgements.add(settled(entry, 1, range(2 * MANY - 1)))
    assert acknowledgements.overdue() == []
    late = places(acknowledgements.overdue(everything=True))
    assert late == [(1, index) for index in range(2 * MANY - 1)]
    assert acknowledgements.done == set()
    assert places(acknowledgements.add(settled(entry, 1, range(2 * MANY - 1, 2 * MANY)))) == [(1, 2 * MANY - 1)]


def test_few_are_acknowledged_at_once_and_with_them_what_waited() -> None:
    acknowledgements, entry = BatchAcks(), entry_of(1, 3 * MANY)
    acknowledgements.add(settled(entry, 1, range(MANY)))
    now = places(acknowledgements.add(settled(entry, 1, range(MANY, MANY + 2))))
    assert sorted(now) == [(1, index) for index in range(MANY + 2)]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=2 * MANY), max_size=20), st.booleans())
def test_each_is_acknowledged_exactly_once(batches: list[list[int]], hurry: bool) -> None:
    sizes = dict.fromkeys(range(4), 100)
    entries = {number: entry_of(number, size) for number, size in sizes.items()}
    given_out = dict.fromkeys(entries, 0)
    acknowledgements = BatchAcks()
    acked: list[tuple[int, int]] = []
    for batch in batches:
        items: list[Any] = []
        for number in batch:
            index = given_out[number]
            if index < sizes[number]:
                given_out[number] += 1
                items += settled(entries[number], number, range(index, index + 1))
        acked += places(acknowledgements.add(items))
        if hurry:
            acked += places(acknowledgements.overdue(everything=True))
    acked += places(acknowledgements.overdue(everything=True))
    for number, count in given_out.items():
        of_entry = sorted(index for entry, index in acked if entry == number)
        assert of_entry in ([-1], list(range(count)))
        assert of_entry != [-1] or count == sizes[number]
