"""The lineage store: nothing that is recorded is changed or lost, and a broken file disturbs nobody."""

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from hexa_worker.clock import SystemClock
from hexa_worker.core.ids import IdSource
from hexa_worker.core.lineage import EVENT_ID, PARENT_ID, REDRIVEN_FROM, ROOT_ID, lineage_of
from hexa_worker.core.message import Delivery, Headers
from hexa_worker.core.outcome import DeadLetter, Drop, Interrupted, Raised
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, Route, Settlement, settle
from hexa_worker.lineage.base import StoreError
from hexa_worker.lineage.entries import LineageEntry, emitted_ms, entry_of
from hexa_worker.lineage.packs import Gathering, unpack
from hexa_worker.lineage.recorder import Recorder
from hexa_worker.lineage.store import SqliteLineageStore

ROUTE = Route(action="do", retry_base="do", policy=RetryPolicy())
IDS = st.text(alphabet="ab1-", min_size=1, max_size=6).map(str.encode) | st.sampled_from(
    [b"a b", b"x\ny", b"", b"\xff"]
)
NAMES = st.sampled_from([EVENT_ID, ROOT_ID, PARENT_ID, REDRIVEN_FROM, "mine"])


def delivery(
    event_id: bytes | None = None, offset: int = 0, source: str = "work", headers: Headers = (), attempt: int = 0
) -> Delivery:
    own: Headers = ((EVENT_ID, event_id),) if event_id is not None else ()
    return Delivery(channel=source, payload=b"", headers=own + headers, source=source, offset=offset, attempt=attempt)


DELIVERIES = st.builds(
    delivery,
    event_id=st.none() | IDS,
    offset=st.integers(0, 5),
    source=st.sampled_from(["work", "work-0", "größe", "a b"]),
    headers=st.lists(st.tuples(NAMES, IDS), max_size=4).map(tuple),
    attempt=st.integers(0, 2),
)
OUTCOMES = st.sampled_from([Drop("no"), Interrupted(), Raised(ValueError("x")), DeadLetter("y")])


def settled(one: Delivery, outcome: object) -> Settlement:
    return Acked(one) if outcome is None else settle(outcome, one, ROUTE, now_ms=1)  # type: ignore[arg-type]


@given(st.lists(st.builds(settled, DELIVERIES, st.none() | OUTCOMES), max_size=20))
def test_a_pack_holds_every_settlement_with_its_lineage(settlements: list[Settlement]) -> None:
    gathering = Gathering()
    gathering.add("do", settlements, 42)
    unpacked = sorted(map(told, unpack(gathering.pack())))
    assert unpacked == sorted(told(entry_of("do", one, 42)) for one in settlements)


def told(entry: LineageEntry) -> tuple[str, ...]:
    """All that an entry says, less the message id of a first delivery that succeeded: that is not kept."""
    if entry.outcome == "acked" and not entry.attempt:
        entry = replace(entry, message_id=None)
    return tuple(map(repr, astuple(entry)))


@given(st.integers(0, 2**47), st.integers(0, 2**64))
def test_an_id_tells_when_its_event_was_emitted(now_ms: int, entropy: int) -> None:
    assert emitted_ms(IdSource(entropy).new(now_ms)) == now_ms


@given(st.text(max_size=40))
def test_any_other_id_tells_nothing(text: str) -> None:
    assert emitted_ms(text) is None or len(text.split("-")) == 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "lineage.db"


@pytest.fixture
def recorder(path: Path) -> Iterator[Recorder]:
    made = Recorder(lambda: SqliteLineageStore(path), SystemClock())
    yield made
    made.close()


def child(event_id: bytes, parent: bytes, root: bytes) -> Delivery:
    return delivery(event_id, headers=((ROOT_ID, root), (PARENT_ID, parent)))


def test_a_tree_is_found_by_any_of_its_events(path: Path, recorder: Recorder) -> None:
    ids = IdSource(1)
    now_ms = SystemClock().now_ms()
    root, first, second, other = (ids.new(now_ms).encode() for _ in range(4))
    recorder.record("do", [Acked(delivery(root)), Acked(delivery(other))], now_ms)
    recorder.record("more", [Acked(child(first, root, root)), Acked(child(second, first, root))], now_ms)
    recorder.close()
    store = SqliteLineageStore(path, create=False)
    expected = {root.decode(), first.decode(), second.decode()}
    for one in (root, first, second):
        assert {entry.event_id for entry in store.find(one.decode())} == expected
    assert store.find(other.decode()[:-1]) == []  # only whole ids
    store.close()


def test_the_file_belongs_to_its_owner_alone(path: Path, recorder: Recorder) -> None:
    recorder.record("do", [Acked(delivery(b"e"))], 1)
    recorder.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_several_writers_share_a_file(path: Path) -> None:
    recorders = [Recorder(lambda: SqliteLineageStore(path), SystemClock()) for _ in range(3)]
    now_ms = SystemClock().now_ms()
    for number, one in enumerate(recorders):
        for round_ in range(50):
            one.record(
                "do", [Acked(delivery(b"e", offset=number)), Acked(delivery(b"e%d-%d" % (number, round_)))], now_ms
            )
    for one in recorders:
        one.close()
    store = SqliteLineageStore(path, create=False)
    assert len(store.find("e")) == 1  # the same thing said 150 times is one thing
    assert all(len(store.find(f"e{number}-{round_}")) == 1 for number in range(3) for round_ in range(50))
    store.close()


def break_with_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, " * 100)


def break_with_a_newer_version(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


def break_with_a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("breaks", [break_with_garbage, break_with_a_newer_version, break_with_a_folder])
def test_a_broken_store_is_said_once_and_disturbs_nobody(
    path: Path, caplog: pytest.LogCaptureFixture, breaks: object
) -> None:
    path.parent.mkdir()
    breaks(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else b""
    recorder = Recorder(lambda: SqliteLineageStore(path), SystemClock())
    for number in range(3):
        recorder.record("do", [Acked(delivery(b"e%d" % number))], 1)
    recorder.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (path.read_bytes() if path.is_file() else b"") == before
    with pytest.raises(StoreError, match=r"lineage\.db"):
        SqliteLineageStore(path, create=False)


def test_a_store_that_is_locked_for_a_while_loses_nothing(path: Path) -> None:
    SqliteLineageStore(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    recorder = Recorder(lambda: SqliteLineageStore(path), SystemClock())
    recorder.record("do", [Acked(delivery(b"e"))], SystemClock().now_ms())
    other.execute("COMMIT")
    other.close()
    recorder.close()
    store = SqliteLineageStore(path, create=False)
    assert len(store.find("e")) == 1
    store.close()


def test_what_is_too_old_or_too_much_is_forgotten_oldest_first(path: Path) -> None:
    store = SqliteLineageStore(path)
    for at_ms in range(1, 2001):
        gathering = Gathering()
        gathering.add("do", [Acked(delivery(b"e%d" % at_ms, headers=(("mine", b""),)))], at_ms)
        store.append(gathering.pack(), at_ms)
    while store.expire(before_ms=1001):
        pass
    assert (store.find("e1000"), len(store.find("e1001"))) == ([], 1)
    store.close()
    store = SqliteLineageStore(path, maximum_bytes=20 * 1024)
    while store.expire(before_ms=0):
        pass
    assert (store.find("e1001"), len(store.find("e2000"))) == ([], 1)
    store.close()


def test_lineage_of_a_settlement_is_that_of_its_delivery() -> None:
    one = child(b"c", b"p", b"r")
    entry = entry_of("do", settle(Raised(ValueError("no")), one, ROUTE, now_ms=5), 6)
    assert (entry.event_id, entry.root_id, entry.parent_id) == tuple(lineage_of(one))
    assert (entry.outcome, entry.next, entry.delay_s, entry.error) == ("retried", "do.retry.1", 1.0, "ValueError: no")
