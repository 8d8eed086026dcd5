"""Which type an event has, and what order means between the types of one channel."""

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.event_types import Dealer, type_reader
from hexa_worker.core.message import Delivery
from hexa_worker.core.ordering import OrderBy


def delivery(type_: str | None, offset: int = 0, key: bytes | None = None, payload: bytes = b"") -> Delivery:
    headers = () if type_ is None else (("type", type_.encode()),)
    return Delivery(channel="in", payload=payload, key=key, headers=headers, source="in-0", offset=offset)


@pytest.mark.parametrize(
    ("source", "payload", "expected"),
    [
        ("payload:kind", {"kind": "made", "x": 1}, "made"),
        ("payload:event.kind", {"event": {"kind": "made"}}, "made"),
        ("payload:event.kind", {"event": 3}, None),
        ("payload:kind", {"kind": 3}, None),
        ("payload:kind", {}, None),
        ("payload:kind", [1], None),
    ],
)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_type_is_read_from_a_field_of_the_payload(
    source: str, payload: object, expected: str | None, codec: str
) -> None:
    encode = msgspec.json.encode if codec == "json" else msgspec.msgpack.encode
    read = type_reader(source, codec)
    assert read(delivery(None, payload=encode(payload))) == expected
    assert read(delivery(None, payload=b"\xc1{")) is None


def test_a_type_is_read_from_a_header_whatever_bytes_are_in_it() -> None:
    read = type_reader("header:type", "json")
    assert [read(delivery(one)) for one in ("made", None)] == ["made", None]
    odd = Delivery(channel="in", payload=b"", headers=(("type", b"\xff"),), source="in-0", offset=0)
    assert read(odd) == "�"


def dealer(order_by: OrderBy = OrderBy.KEY) -> Dealer:
    return Dealer(type_reader("header:type", "json"), {"a": "do-a", "b": "do-b"}, "others", order_by)


def ready(one: Dealer) -> dict[str, list[int]]:
    return {action: [each.offset for each in queue] for action, queue in one.ready.items() if queue}


def test_events_go_to_the_action_of_their_type_and_all_others_to_one_action() -> None:
    one = dealer(OrderBy.NONE)
    one.deal([delivery(type_, offset) for offset, type_ in enumerate(["a", "b", "c", None, "a"])])
    assert ready(one) == {"do-a": [0, 4], "do-b": [1], "others": [2, 3]}


def test_an_event_waits_for_the_one_before_it_of_its_key_and_another_type() -> None:
    one = dealer()
    batch = [delivery("a", 0, b"k"), delivery("a", 1, b"k"), delivery("b", 2, b"k"), delivery("a", 3, b"k")]
    one.deal([*batch, delivery("b", 4, b"other"), delivery("b", 5)])
    assert (ready(one), len(one)) == ({"do-a": [0, 1], "do-b": [4, 5]}, 6)
    one.ready["do-a"].clear()
    one.finish(batch[0])
    assert ready(one) == {"do-b": [4, 5]}
    one.finish(batch[1])
    assert ready(one) == {"do-b": [4, 5, 2]}
    one.ready["do-b"].clear()
    one.finish(batch[2])
    assert (ready(one), len(one)) == ({"do-a": [3]}, 1)


def test_what_is_released_takes_all_behind_it_along() -> None:
    one = dealer()
    batch = [delivery("a", 0, b"k"), delivery("a", 1, b"k"), delivery("b", 2, b"k"), delivery("b", 3, b"k")]
    one.deal(batch)
    one.ready["do-a"].popleft()
    assert [each.offset for each in one.release(batch[0])] == [1, 2, 3]
    assert (ready(one), len(one)) == ({}, 0)
    one.deal(batch)
    assert ready(one) == {"do-a": [0, 1]}


def test_what_came_from_a_source_that_is_lost_is_taken_back() -> None:
    one = dealer()
    lost = [
        Delivery(channel="in", payload=b"", key=b"l", headers=(("type", type_),), source="in-1", offset=offset)
        for offset, type_ in enumerate((b"a", b"b", b"b"))
    ]
    one.deal([*lost, delivery("b", 7, b"k")])
    assert sorted(each.offset for each in one.take(frozenset({"in-1"}))) == [0, 1, 2]
    assert (ready(one), len(one)) == ({"do-b": [7]}, 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([b"1", b"2", None])), max_size=40), st.randoms())
def test_each_key_is_handled_in_its_order_whatever_is_done_first(
    events: list[tuple[str, bytes | None]], luck: Random
) -> None:
    one = dealer()
    todo = [delivery(type_, offset, key) for offset, (type_, key) in enumerate(events)]
    begun: dict[str, list[Delivery]] = {action: [] for action in one.ready}
    done: list[Delivery] = []
    while todo or len(one) or any(begun.values()):
        step = luck.randrange(3)
        if step == 0 and todo:
            count = luck.randint(1, 4)
            one.deal(todo[:count])
            del todo[:count]
        action = luck.choice(sorted(one.ready))
        if step == 1 and one.ready[action]:
            begun[action].append(one.ready[action].popleft())
        if step == 2 and begun[action]:
            done.append(begun[action].pop(0))
            one.finish(done[-1])
        running = [each for each in done if each.key is not None]
        assert all(
            [each.offset for each in running if each.key == key]
            == sorted(each.offset for each in running if each.key == key)
            for key in (b"1", b"2")
        )
    assert len(done) == len(events)
