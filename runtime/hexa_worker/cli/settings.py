"""Where the settings of a subscription come from, for ``check --explain`` and ``check --json``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hexa_worker.cli.terminal import console

if TYPE_CHECKING:
    from hexa_worker.subscriptions.plan import Plan


def shown(value: Any) -> Any:
    """A setting's value as JSON has it; a table of a driver's own options by the keys that it states."""
    import msgspec  # noqa: PLC0415 - lazy by design

    if isinstance(value, msgspec.Struct):
        keys = zip(value.__struct_fields__, value.__struct_defaults__, strict=False)
        stated = {key: getattr(value, key) for key, default in keys if getattr(value, key) != default}
        return msgspec.to_builtins(stated, enc_hook=str)
    return list(value) if isinstance(value, tuple) else value


def draw_settings(plans: "Sequence[Plan]") -> None:
    """One table for each plan: what each setting is, and who stated it."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - lazy by design
    from rich.table import Table  # noqa: PLC0415 - lazy by design

    for plan in [one for one in plans if one.settings]:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False, leading=0)
        table.add_column(plan.action, style="bold cyan", overflow="fold")
        table.add_column("value", overflow="fold")
        table.add_column("from", overflow="fold")
        for key, one in plan.settings.items():
            value = "-" if one.value is None else str(shown(one.value))
            table.add_row(key, value, one.stated_by)
        console().print()
        console().print(table)
