"""Which parked events a command is about."""

from collections.abc import Sequence

import click

LARGEST = 2**63 - 1


def parked_ids(named: Sequence[str], *, everything: bool) -> list[int] | None:
    """The numbers that were named; None for all.

    Raises:
        click.UsageError: none were, or something that is no number.
    """
    ctx = click.get_current_context()
    if everything:
        return None
    if not named:
        raise click.UsageError("name events by the id that `hexa-worker outbox show` has for them", ctx)
    wrong = next((one for one in named if not one.isdecimal() or int(one[:20]) > LARGEST), None)
    if wrong is not None:
        raise click.UsageError(f"{wrong!r} is no id as `hexa-worker outbox show` has them", ctx)
    return [int(one) for one in named]
