"""A raised error as text, for the dead letter and the debug log."""

import traceback

from hexa_worker.core.scrubbing import scrub


def format_error(error: BaseException) -> str:
    """The traceback as text, frames of the runtime itself and secrets left out, whatever the error does.

    Costs tens of microseconds: only for what is kept.
    """
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("hexa_worker."):
            trace = trace.tb_next
        return scrub("".join(traceback.format_exception(type(error), error, trace, limit=-20)))
    except Exception:  # noqa: BLE001 - an error whose text cannot be made is still an error
        return f"{type(error).__qualname__} (its traceback cannot be formatted)"
