"""``hexa-worker check``: what would run, without running it; with ``--connect`` also what the broker says."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hexa_worker.cli.exits import EXIT_USAGE
from hexa_worker.cli.orphans import warn_of_orphans
from hexa_worker.cli.preflight import Look, draw, look, plain_broker, plain_findings
from hexa_worker.cli.project import config_option, json_option, only_config, run_async
from hexa_worker.cli.settings import draw_settings, shown
from hexa_worker.cli.surroundings import look_around
from hexa_worker.cli.terminal import console, fail, note, plural, write_json
from hexa_worker.errors import DriverRejected

if TYPE_CHECKING:
    from hexa_worker.config.model import Config
    from hexa_worker.subscriptions.plan import Loaded, Plan

SHOWN_DELAYS = 6


@click.command("check", short_help="Check worker.toml and its handlers; show the subscriptions.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@click.option("--connect", is_flag=True, help="Also connect to the broker and look at what it has. Changes nothing.")
@click.option(
    "--explain", is_flag=True, help="Show every setting, and whether worker.toml, @subscribe or nobody set it."
)
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, connect: bool, explain: bool, as_json: bool) -> int:
    """Check worker.toml, import the handlers, check their types, and show every subscription as it would run.

    Nothing is connected to unless you say --connect. Exit code 2 when something is wrong: a worker would not start.
    What is missing on this machine (folders, files) is a warning, with --connect a mistake. With --connect, exit code 1
    when the broker is away: a worker would wait for it.

    \b
    Example:
      hexa-worker check
      hexa-worker check --connect
      hexa-worker check --explain
      hexa-worker check deploy/worker.toml --json
    """
    from hexa_worker.config.load import load_config  # noqa: PLC0415 - lazy by design
    from hexa_worker.drivers.opening import off_specs, specs  # noqa: PLC0415 - lazy by design
    from hexa_worker.subscriptions.loader import load_plans  # noqa: PLC0415 - lazy by design

    path = only_config(config_path, arguments)
    config = load_config(path)
    _require_clients(config)
    loaded = load_plans(config)
    warn_of_orphans(config, (*specs(loaded), *off_specs(loaded)))
    missing, without = look_around(config)
    for one in () if as_json else (*config.warnings, *missing, *without):
        note(f"warning: {one}")
    found = None
    if connect:
        try:
            found = run_async(look, config, loaded)
        except DriverRejected as error:
            return fail(str(error), EXIT_USAGE)
    if as_json:
        told = _plain_all(str(path), config.file.worker.name, loaded.plans, found)
        off = {one.plan.action: one.reason for one in loaded.off}
        write_json(told | {"off": off, "warnings": list(config.warnings), "machine": [*missing, *without]})
    elif loaded.plans:
        _draw(loaded.plans)
        draw_settings(loaded.plans if explain else ())
    if not as_json:
        _note_more(loaded)
    if found is not None and not as_json:
        draw(found)
    if found is not None and missing:
        return fail(f"{_short(path)}: {plural(len(missing), 'problem')} on this machine: {missing[0]}", EXIT_USAGE)
    return _verdict(_short(path), len(loaded.plans), found, silent=as_json)


def _note_more(loaded: "Loaded") -> None:
    for one in loaded.off:
        note(f"{one.plan.action} is {one.reason}")
    for plan in loaded.plans:
        if plan.handler.ignored and plan.reply_to is None:
            text = "which nobody gets unless the event expects an answer (emit it instead, or set reply_to)"
            note(f"warning: {plan.handler.where}: returns {plan.handler.ignored}, {text}")


def _require_clients(config: "Config") -> None:
    """Look for the client library of all that a worker would connect to.

    Raises:
        ConfigError: one is not installed.
    """
    from hexa_worker.dedup.opening import require_redis  # noqa: PLC0415 - lazy by design
    from hexa_worker.drivers.clients import require_client  # noqa: PLC0415 - lazy by design
    from hexa_worker.lineage.opening import require_postgres  # noqa: PLC0415 - lazy by design
    from hexa_worker.outbox.opening import require_psycopg  # noqa: PLC0415 - lazy by design

    for require in (require_client, require_redis, require_postgres):
        require(config)
    outbox = config.file.outbox
    if outbox is not None and outbox.url.reveal().startswith("postgres"):
        require_psycopg(config)


def _plain_all(path: str, name: str, plans: "Sequence[Plan]", found: Look | None) -> dict[str, Any]:
    subscriptions = [plain(one) for one in plans]
    if found is None:
        return {"file": path, "name": name, "subscriptions": subscriptions}
    for one in subscriptions:
        one["findings"] = plain_findings(found, one["action"])
    told: dict[str, Any] = {
        "file": path,
        "name": name,
        "broker": plain_broker(found),
        "subscriptions": subscriptions,
    }
    told |= {"claims": list(found.claims)} if found.claims else {}
    return told if found.outbox is None else {**told, "outbox": found.outbox}


def _verdict(file: str, count: int, found: Look | None, *, silent: bool) -> int:
    """Say how it ended; returns the exit code."""
    problems = [] if found is None else found.problems
    if problems:
        first = f"{problems[0].kind} {problems[0].name}: {problems[0].problem}"
        return fail(f"{file}: {plural(len(problems), 'problem')} at the broker: {first}", EXIT_USAGE)
    if silent:
        return 0
    reached = "" if found is None else f", the broker is ready{_warnings(found)}"
    if count:
        note(f"{file}: {plural(count, 'subscription')}, no mistakes found{reached}")
    else:
        note(f"{file}: no mistakes found{reached}, but nothing to run: no handler module has a subscription")
    return 0


def _warnings(found: Look) -> str:
    """How many there are; the table has them."""
    count = len(found.warnings) + len(found.claims)
    return f" ({plural(count, 'warning')}, see above)" if count else ""


def plain(plan: "Plan") -> dict[str, Any]:
    """A subscription, as JSON says it."""
    from hexa_worker.core.channels import dead_letter_channel, retry_channel  # noqa: PLC0415 - lazy by design

    return {
        "action": plan.action,
        "channels": list(plan.channels),
        "type": plan.type,
        "pattern": plan.pattern,
        "group": plan.group,
        "start": plan.start,
        "handler": plan.handler.where,
        "payload": plan.handler.payload_type,
        "ignored_result": plan.handler.ignored or None,
        "style": plan.handler.style,
        "batch": plan.batch if plan.handler.batch else None,
        "concurrency": plan.concurrency,
        "mailbox": plan.mailbox,
        "mailbox_bytes": plan.mailbox_bytes,
        "order_by": plan.order_by.value,
        "timeout_s": plan.timeout_s,
        "retries": [
            {"channel": retry_channel(plan.retry_base, number), "delay_s": plan.retry.delay_s(number)}
            for number in range(1, plan.retry.channels_count + 1)
        ],
        "maximum_retries": plan.retry.maximum_retries,
        "maximum_attempts": plan.retry.maximum_retries,  # by its old name, for scripts that read it
        "retry_order": plan.retry.order,
        "maximum_waiting_keys": plan.retry.waiting_keys(plan.mailbox) if plan.retry.order == "key" else None,
        "dead_letter": dead_letter_channel(plan.retry_base),
        "settings": {key: {"value": shown(one.value), "from": one.stated_by} for key, one in plan.settings.items()},
    }


def _draw(plans: "tuple[Plan, ...]") -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - lazy by design
    from rich.table import Table  # noqa: PLC0415 - lazy by design

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False, leading=0)
    table.add_column("action", style="bold cyan", overflow="fold")
    table.add_column("channels", overflow="fold")
    table.add_column("handler", overflow="fold")
    table.add_column("payload", overflow="fold")
    table.add_column("runs", overflow="fold")
    table.add_column("retries", overflow="fold")
    for plan in plans:
        channels = "\n".join(plan.channels) if plan.pattern is None else f"/{plan.pattern}/"
        channels += "" if plan.type is None else f"\ntype {plan.type}"
        handler = plan.handler.where.replace(" ", "\n", 1)
        table.add_row(
            plan.action, channels, handler, plan.handler.payload_type, runs(plan), ladder(plan) + answers(plan)
        )
    console().print(table)


def runs(plan: "Plan") -> str:
    """How a handler is run, in a few words."""
    style = "async" if plan.handler.style == "async" else f"{plan.threads} threads"
    words = [f"{style} x {plan.concurrency}" if plan.handler.style == "async" else style]
    if plan.handler.batch:
        words.append(f"batches of {plan.batch}")
    if plan.order_by.value != "none":
        words.append(f"order by {plan.order_by.value}")
    return "\n".join(words)


def ladder(plan: "Plan") -> str:
    """The delays before each retry and what follows them, in a few words."""
    from hexa_worker.core.channels import dead_letter_channel  # noqa: PLC0415 - lazy by design

    end = f"then {dead_letter_channel(plan.retry_base)}"
    count = plan.retry.maximum_retries
    if not count:
        return f"none\n{end}"
    delays = [f"{plan.retry.delay_s(number):g}" for number in range(1, count + 1)]
    if count > SHOWN_DELAYS:
        delays = [*delays[: SHOWN_DELAYS - 2], "…", delays[-1]]
    words = f"{count} after {', '.join(delays)} s"
    if plan.retry.order == "key":
        keys = plan.retry.waiting_keys(plan.mailbox)
        words += f"\nin place: at most {keys} {plan.order_by.value}s wait"
    return f"{words}\n{end}"


def answers(plan: "Plan") -> str:
    """What the classes of errors mean, a line for each meaning."""
    stated = {key: one.value for key, one in plan.settings.items() if key.endswith("_on") and one.value}
    return "".join(f"\n{key} {', '.join(names)}" for key, names in stated.items())


def _short(path: Path) -> str:
    return path.name if path.parent == Path.cwd() else str(path)
