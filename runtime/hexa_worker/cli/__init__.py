"""The command line: one module per command, imported only when it is called.

Exit codes: 0 fine, 1 failed, 2 bad configuration or usage, 130 interrupted from the keyboard.
"""

import errno
import sys
from collections.abc import Sequence

import click

from hexa_worker.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from hexa_worker.cli.group import root
from hexa_worker.cli.terminal import fail, open_closed_streams, silence
from hexa_worker.errors import ConfigError, HexaWorkerError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors of the user's making end in one text on stderr."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter is no reason to fail
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone
        silence(sys.stdout)
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in _FULL:
            raise
        silence(sys.stdout)
        return fail(f"the output cannot be written: {error.strerror}", EXIT_FAILED)
    return code


def _run(arguments: list[str]) -> int:
    try:
        code = root.main(arguments, prog_name="hexa-worker", standalone_mode=False)
    except click.UsageError as error:
        return _misused(error)
    except ConfigError as error:
        return fail(str(error), EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        return fail(error.format_message(), error.exit_code)
    except HexaWorkerError as error:
        return fail(str(error), EXIT_FAILED)
    return code if isinstance(code, int) else 0


def _misused(error: click.UsageError) -> int:
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # a group alone: its help is the answer
        print(error.format_message(), file=sys.stderr)
        return EXIT_USAGE
    place = f"\ntry: {error.ctx.command_path} --help" if error.ctx is not None else ""
    return fail(error.format_message() + place, EXIT_USAGE)
