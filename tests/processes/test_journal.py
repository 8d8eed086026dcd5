"""The crash journal and the suspects, through their real files."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexa_worker.core.crash_attribution import InFlightId
from hexa_worker.processes.journal import NOTHING, SEGMENT_SIZE, MappedJournal, Remains, read_journal
from hexa_worker.processes.suspects import CrashCounter, SuspectsFile


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path that every example of a property may write anew."""
    return tmp_path_factory.mktemp("journal") / "slot-0"


names = st.text(min_size=1, max_size=300).filter(lambda text: text.encode("utf-8", "replace").decode() == text)
places = st.tuples(names, st.integers(-(2**63), 2**63 - 1))


@given(st.lists(st.tuples(names, st.integers(0, 50), places, st.booleans()), max_size=30))
def test_what_has_begun_and_not_ended_is_in_flight(
    scratch: Path, calls: list[tuple[str, int, tuple[str, int], bool]]
) -> None:
    journal = MappedJournal(scratch)
    expected: dict[tuple[str, int], InFlightId] = {}
    for action, lane, (source, offset), ends in calls:
        (cell,) = journal.cells(action, lane, 1)
        cell.begin(source, offset)
        expected[action, lane] = InFlightId(action, source, offset)
        if ends:
            cell.end()
            del expected[action, lane]
    remains = read_journal(scratch)
    assert sorted(remains.in_flight) == sorted(expected.values())
    assert not remains.clean


def test_it_grows_with_lanes_and_sources(tmp_path: Path) -> None:
    journal = MappedJournal(tmp_path / "slot-0")
    cells = journal.cells("do", 0, 10_000)
    for number, cell in enumerate(cells):
        cell.begin(f"source-{number}", number)
    assert (tmp_path / "slot-0").stat().st_size > 4 * SEGMENT_SIZE
    assert set(read_journal(tmp_path / "slot-0").in_flight) == {
        InFlightId("do", f"source-{number}", number) for number in range(10_000)
    }


def test_a_lane_that_is_made_anew_gets_the_same_cells(tmp_path: Path) -> None:
    journal = MappedJournal(tmp_path / "slot-0")
    first = journal.cells("do", 3, 2)
    assert journal.cells("do", 3, 2) == first
    assert journal.cells("do", 3, 4)[:2] == first


def test_a_clean_end_is_told_from_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "slot-0"
    journal = MappedJournal(path)
    journal.cells("do", 0, 1)[0].begin("work", 7)
    journal.close_cleanly(1)
    assert read_journal(path) == Remains(code=1, in_flight=(InFlightId("do", "work", 7),), accused=())


def test_only_what_is_in_flight_can_be_accused(tmp_path: Path) -> None:
    path = tmp_path / "slot-0"
    journal = MappedJournal(path)
    first, second, third = journal.cells("do", 0, 3)
    for cell, offset in ((first, 1), (second, 2), (third, 3)):
        cell.begin("work", offset)
    third.end()
    journal.accuse("work", 2)
    journal.accuse("work", 3)
    journal.accuse("elsewhere", 1)
    assert read_journal(path).accused == (InFlightId("do", "work", 2),)
    second.end()
    second.begin("work", 4)
    assert read_journal(path).accused == ()


def test_a_journal_is_for_its_owner_only(tmp_path: Path) -> None:
    MappedJournal(tmp_path / "slot-0")
    assert (tmp_path / "slot-0").stat().st_mode & 0o777 == 0o600


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_journal_is_read_as_far_as_it_goes(scratch: Path, data: st.DataObject) -> None:
    journal = MappedJournal(scratch)
    for lane in range(3):
        journal.cells("do", lane, 1)[0].begin("work", lane)
    content = bytearray(scratch.read_bytes())
    interesting = st.integers(0, 200) | st.integers(SEGMENT_SIZE, SEGMENT_SIZE + 200)
    for at, value in data.draw(st.lists(st.tuples(interesting, st.integers(0, 255)), max_size=20)):
        content[at] = value
    scratch.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert isinstance(read_journal(scratch), Remains)


def test_a_missing_journal_says_nothing(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "slot-0") == NOTHING


def crash(*offsets: int) -> Remains:
    return Remains(code=None, in_flight=tuple(InFlightId("do", "work", offset) for offset in offsets), accused=())


def test_children_see_crashes_as_soon_as_they_are_counted(tmp_path: Path) -> None:
    book = CrashCounter(tmp_path)
    suspects = SuspectsFile(tmp_path, lambda _hands: None)
    assert not suspects.any()
    assert book.record(crash(1, 2)) == {InFlightId("do", "work", 1): 1, InFlightId("do", "work", 2): 1}
    assert suspects.any()
    assert suspects.crashes("do", "work", 1) == 1
    assert suspects.crashes("do", "work", 3) == 0
    assert suspects.crashes("other", "work", 1) == 0
    book.record(crash(1, 3))
    assert suspects.any()
    assert suspects.crashes("do", "work", 1) == 2
    assert suspects.crashes("do", "work", 3) == 0


def test_suspects_outlive_the_parent_but_not_a_day(tmp_path: Path) -> None:
    now = 1_000_000.0
    CrashCounter(tmp_path, lambda: now).record(crash(1))
    assert CrashCounter(tmp_path, lambda: now + 3600).suspicions
    assert not CrashCounter(tmp_path, lambda: now + 25 * 3600).suspicions


def test_a_settled_suspect_is_forgotten_by_all(tmp_path: Path) -> None:
    book = CrashCounter(tmp_path)
    book.record(crash(1, 2))
    one, two = SuspectsFile(tmp_path, book.forget), SuspectsFile(tmp_path, book.forget)
    assert one.any()
    assert two.any()
    one.settled("do", [("work", 1), ("work", 3)])
    assert two.any()
    assert [two.crashes("do", "work", offset) for offset in (1, 2)] == [0, 1]


@given(st.binary(max_size=200))
def test_a_damaged_file_of_suspects_says_nothing(scratch: Path, content: bytes) -> None:
    (scratch.parent / "suspects").write_bytes(content)
    assert isinstance(CrashCounter(scratch.parent).suspicions, dict)
