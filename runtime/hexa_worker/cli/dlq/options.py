"""What the dlq commands have in common: which dead letters are meant, and how ages and rates are written."""

from collections.abc import Callable
from typing import Any

import click

from hexa_worker.dead_letters.filters import Filters
from hexa_worker.dead_letters.parse import parse_duration, parse_rate


class Seconds(click.ParamType[float]):
    """A duration."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Rate(click.ParamType[float]):
    """A rate."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Letters per second of what was written."""
        try:
            return parse_rate(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


REASONS = ("failed", "timeout", "undecodable", "crashed", "asked", "unknown")
"""See `hexa_worker.core.settlement.Failure`; unknown is that of letters that others wrote."""
_FILTERS = (
    click.option("--action", help="Of this subscription."),
    click.option("--error", metavar="CLASS", help="Whose error has this class."),
    click.option("--reason", type=click.Choice(REASONS), metavar="REASON", help=f"One of {', '.join(REASONS)}."),
    click.option("--fingerprint", help="Whose failures look alike; see list."),
    click.option("--root", "root_id", metavar="ID", help="Of this event or of its tree."),
    click.option("--older-than", type=Seconds(), metavar="AGE", help="Dead for longer than this, as 2h."),
    click.option("--newer-than", type=Seconds(), metavar="AGE", help="Dead for less long than this."),
)


def filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator that adds the options of `filters`."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


def filters(ids: tuple[str, ...], chosen: dict[str, Any]) -> Filters:
    """The filters that the command line said."""
    older, newer = chosen.pop("older_than"), chosen.pop("newer_than")
    return Filters(
        ids=frozenset(ids),
        older_than_ms=None if older is None else round(older * 1000),
        newer_than_ms=None if newer is None else round(newer * 1000),
        **chosen,
    )


def certain_filters(ids: tuple[str, ...], chosen: dict[str, Any], *, everything: bool) -> Filters:
    """As `filters`, for commands that change something: nothing said must not mean everything."""
    found = filters(ids, chosen)
    if found.empty and not everything:
        raise click.UsageError("say which: ids, filters or --all", click.get_current_context())
    return found


def no_more(rest: tuple[str, ...]) -> None:
    """Refuse arguments that mean nothing."""
    if rest:
        raise click.UsageError(f"unexpected argument {rest[0]!r}", click.get_current_context())
