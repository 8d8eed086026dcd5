"""``hexa-worker dlq show``."""

import click

from hexa_worker.cli import dead_letter_view as show
from hexa_worker.cli.dlq.open_ import open_dead_letters
from hexa_worker.cli.exits import EXIT_FAILED
from hexa_worker.cli.project import config_option, find_config, json_option, run_async
from hexa_worker.cli.terminal import fail, write_json
from hexa_worker.clock import SystemClock
from hexa_worker.dead_letters.dead_letter import StoredDeadLetter
from hexa_worker.dead_letters.dead_letters import DeadLetters


@click.command("show", short_help="Show one dead letter, whole.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML] ID")
@config_option
@click.option("--payload", "with_payload", is_flag=True, help="Show the payload too: as JSON, or as a hex dump.")
@json_option
def command(arguments: tuple[str, ...], config_path: str | None, *, with_payload: bool, as_json: bool) -> int:
    """Show everything that is known of one dead letter. Its payload is shown only on request.

    \b
    Example:
      hexa-worker dlq show check-order.dlq-17 --payload
    """
    path, rest = find_config(config_path, arguments)
    if len(rest) != 1:
        raise click.UsageError("name one dead letter, as dlq list shows it", click.get_current_context())

    async def run() -> StoredDeadLetter | None:
        async with open_dead_letters(path, None) as project:
            return await DeadLetters(project.driver, project.specs, SystemClock()).find(rest[0])

    letter = run_async(run)
    if letter is None:
        return fail(f"there is no dead letter {rest[0]!r}", EXIT_FAILED)
    if as_json:
        write_json(show.whole(letter, with_payload=with_payload))
    else:
        show.show_human(letter, with_payload=with_payload)
    return 0
