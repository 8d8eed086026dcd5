"""What the short form in CI does to each broker: each kind of fault, once or a few times."""

from tests.chaos.plan import Amounts

SHORT = Amounts(kills=4, outages=1, freezes=1, longest_freeze_s=1.5, cuts=1, black_holes=1, scales=1, rolls=1)
