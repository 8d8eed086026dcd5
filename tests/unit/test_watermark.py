"""The watermark: right for every order of completion."""

from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.watermark import Watermark

offsets_with_gaps = st.lists(st.integers(0, 10_000), unique=True, max_size=60).map(sorted)


@given(offsets_with_gaps, st.data())
def test_any_completion_order_gives_the_lowest_unfinished_offset(offsets: list[int], data: st.DataObject) -> None:
    end = offsets[-1] + 1 if offsets else 0
    watermark = Watermark(0)
    watermark.deliver(offsets, end)
    unfinished = set(offsets)
    order = data.draw(st.permutations(offsets))
    for offset in order:
        watermark.finish([offset])
        unfinished.discard(offset)
        assert watermark.position == min(unfinished, default=end)
        assert watermark.outstanding == len(unfinished)
        beyond = {one for first, last in watermark.beyond for one in range(first, last + 1)}
        assert beyond.isdisjoint(unfinished)
        assert beyond.issuperset(one for one in offsets if one > watermark.position and one not in unfinished)
        assert not beyond or watermark.position < min(beyond) <= max(beyond) < end
        assert all(watermark.is_finished(one) is (one not in unfinished) for one in offsets)


@given(offsets_with_gaps, st.data())
def test_batches_finish_as_single_offsets_do(offsets: list[int], data: st.DataObject) -> None:
    one_by_one, batched = Watermark(0), Watermark(0)
    for watermark in (one_by_one, batched):
        watermark.deliver(offsets, 20_000)
    chosen = data.draw(st.permutations(offsets))[: len(offsets) // 2]
    batched.finish(chosen)
    for offset in chosen:
        one_by_one.finish([offset])
    assert (batched.position, batched.beyond) == (one_by_one.position, one_by_one.beyond)


def test_gaps_at_the_end_are_passed_once_all_is_finished() -> None:
    watermark = Watermark(5)
    watermark.deliver([5, 9], 40)
    watermark.finish([9, 5])
    assert watermark.position == 40


def test_what_is_finished_beyond_an_unfinished_offset_is_one_run_however_much_it_is() -> None:
    watermark = Watermark(0)
    for first in range(0, 1_000_000, 1_000):
        offsets = range(first, first + 1_000)
        watermark.deliver(offsets, first + 1_000)
        watermark.finish([offset for offset in offsets if offset])
    assert (watermark.position, watermark.beyond, watermark.outstanding) == (0, [(1, 999_999)], 1)
    watermark.finish([0])
    assert (watermark.position, watermark.beyond) == (1_000_000, [])


def test_nothing_delivered_stays_where_it_began() -> None:
    assert Watermark(7).position == 7
