"""Blame, played through: killers are found out, those beside them never pay."""

from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.core.crash_attribution import MAX_AGE_S, MAX_SUSPECTS, InFlightId, Suspicion, blame, count_crash

MAXIMUM = 3


def hand(offset: int) -> InFlightId:
    return InFlightId("do", "work", offset)


hands = st.integers(0, 20).map(hand)


@given(st.sets(hands), st.data())
def test_nobody_who_was_not_in_flight_is_blamed_and_somebody_always_is(
    in_flight: set[InFlightId], data: st.DataObject
) -> None:
    suspects = data.draw(st.dictionaries(hands, st.builds(Suspicion, st.integers(1, 5), st.just(0.0))))
    accused = data.draw(st.sets(st.sampled_from(sorted(in_flight)))) if in_flight else set()
    blamed = blame(in_flight, accused, suspects)
    assert blamed <= in_flight
    assert bool(blamed) == bool(in_flight)
    if accused:
        assert blamed == accused


@given(st.sets(st.integers(0, 11), max_size=4), st.integers(1, 8), st.randoms(use_true_random=False))
def test_every_killer_is_dead_lettered_and_no_innocent_ever_is(killers: set[int], lanes: int, random: object) -> None:
    """One process after the other, under the rules of isolation, until nothing is left."""
    left = list(range(12))
    crashes: dict[InFlightId, Suspicion] = {}
    dead: set[int] = set()
    for process in range(12 * MAXIMUM + 1):
        random.shuffle(left)  # type: ignore[attr-defined]  # random.Random, which typeshed has under another name
        died = False
        while left and not died:
            running = _pick(left, crashes, lanes)
            if not running:
                dead |= {one for one in left if _count(crashes, one) >= MAXIMUM}
                left = [one for one in left if one not in dead]
                continue
            if killers & set(running):
                blamed = blame([hand(one) for one in running], (), crashes)
                crashes = count_crash(crashes, blamed, float(process))
                died = True
            else:
                left = [one for one in left if one not in running]
    assert not left
    assert dead == killers


def _count(crashes: dict[InFlightId, Suspicion], offset: int) -> int:
    found = crashes.get(hand(offset))
    return 0 if found is None else found.crashes


def _pick(left: list[int], crashes: dict[InFlightId, Suspicion], lanes: int) -> list[int]:
    """What one process may run at once: one suspect among others, or alone before its last crash."""
    running: list[int] = []
    suspects = 0
    for one in left:
        count = _count(crashes, one)
        if count >= MAXIMUM:
            continue
        if count + 1 >= MAXIMUM:
            if not running:
                return [one]
            continue
        if count and suspects:
            continue
        suspects += bool(count)
        running.append(one)
        if len(running) == lanes:
            break
    return running


def test_a_suspect_that_is_not_seen_for_a_day_is_forgotten() -> None:
    crashes = count_crash({}, [hand(1)], 0.0)
    assert count_crash(crashes, [hand(2)], MAX_AGE_S - 1).keys() == {hand(1), hand(2)}
    assert count_crash(crashes, [hand(2)], MAX_AGE_S + 1).keys() == {hand(2)}


def test_suspects_are_bounded_and_the_newest_are_kept() -> None:
    many = {hand(offset): Suspicion(1, offset / 10_000) for offset in range(MAX_SUSPECTS)}
    after = count_crash(many, [hand(-1)], MAX_SUSPECTS / 10_000)
    assert len(after) == MAX_SUSPECTS
    assert hand(-1) in after
    assert hand(0) not in after
