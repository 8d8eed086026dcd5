"""The plan of a chaos run: pure, so judged by its properties."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.plan import ALONE, PARENTS, Amounts, What, make_plan

small = st.integers(min_value=0, max_value=12)
amounts = st.builds(
    Amounts,
    kills=small,
    longest_freeze_s=st.floats(min_value=0.5, max_value=60),
    outages=small,
    freezes=small,
    cuts=small,
    black_holes=small,
    scales=small,
    rolls=small,
    bad_rolls=small,
    operations=small,
)
seeds = st.integers()
NAMES: dict[What, str] = {
    "outage": "outages",
    "freeze": "freezes",
    "cut": "cuts",
    "black-hole": "black_holes",
    "scale": "scales",
    "roll": "rolls",
    "bad-roll": "bad_rolls",
    "operate": "operations",
}


@given(seeds, amounts)
def test_a_plan_does_what_was_asked_for_and_the_same_for_the_same_seed(seed: int, wanted: Amounts) -> None:
    plan = make_plan(seed, wanted)
    done = Counter(blow.what for blows in plan for blow in blows)
    assert {name: done[what] for what, name in NAMES.items()} == {
        name: getattr(wanted, name) for name in NAMES.values()
    }
    assert done["kill-child"] + done["kill-parent"] == wanted.kills
    assert plan == make_plan(seed, wanted)


@given(seeds, amounts)
def test_a_round_breaks_the_broker_or_changes_the_fleet_once_and_changes_are_left_alone(
    seed: int, wanted: Amounts
) -> None:
    for blows in make_plan(seed, wanted):
        mains = [blow for blow in blows if blow.what in NAMES]
        assert len(mains) <= 1
        assert list(blows) == sorted(blows)
        assert all(blow.at_s >= 0 and (0 <= blow.pick < 1 or blow.what == "operate") for blow in blows)
        assert not any(blow.what in ALONE for blow in mains) or len(blows) == 1


@given(seeds, st.integers(min_value=1, max_value=12), st.floats(min_value=0.5, max_value=60))
def test_freezes_reach_from_half_a_second_to_the_longest(seed: int, count: int, longest_s: float) -> None:
    plan = make_plan(seed, Amounts(freezes=count, longest_freeze_s=longest_s))
    lengths = sorted(blow.seconds for blows in plan for blow in blows)
    assert abs(lengths[-1] - longest_s) < 1e-6
    assert count == 1 or abs(lengths[0] - 0.5) < 1e-6


def test_one_kill_in_ten_hits_the_parent() -> None:
    plan = make_plan(1, Amounts(kills=2_000))
    parents = sum(blow.what == "kill-parent" for blows in plan for blow in blows)
    assert abs(parents / 2_000 - PARENTS) < 0.02
