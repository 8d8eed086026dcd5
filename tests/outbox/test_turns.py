"""What the relay decides without a database."""

from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.message import Message
from hexa_worker.outbox.records import HeldRecord, OutboxRecord
from hexa_worker.outbox.turns import first_of_lines

keys = st.lists(st.sampled_from([None, b"a", b"b"]))


def held(number: int, key: bytes | None) -> HeldRecord:
    return HeldRecord(
        record=OutboxRecord(number, str(number), Message(channel="c", payload=b"", key=key)), state="refused"
    )


@given(keys)
def test_of_refused_records_the_first_of_each_line_and_all_without_a_key_are_tried_at_once(
    given_keys: list[bytes | None],
) -> None:
    due = [held(number, key) for number, key in enumerate(given_keys)]
    chosen = [one.record.id for one in first_of_lines(due)]
    firsts = {given_keys.index(key) for key in set(given_keys) - {None}}
    assert chosen == [number for number, key in enumerate(given_keys) if key is None or number in firsts]
