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
        assert watermark.beyond == tuple(one for one in offsets if one >= watermark.position and one not in unfinished)


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


def test_nothing_delivered_stays_where_it_began() -> None:
    assert Watermark(7).position == 7
