"""Where lanes are in their handlers' code, as seen by another thread: file, line and function, never a value."""

import sys
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Final

from hexa_worker.actors import invoke
from hexa_worker.core.scrubbing import encodable

DEPTH: Final = 30
"""So many frames of a stack: the innermost."""
OWN: Final = ("/hexa_worker/actors/", "/anyio/to_thread.py", "/anyio/_backends/")
"""Frames in these files tell nothing about a handler."""


def coroutine_stack(work: Any) -> tuple[str, ...]:
    """Where a suspended coroutine is, the innermost frame last; of one that waits for a thread, where that is."""
    frames = list(_awaited(work))
    for frame, _ in frames:
        if frame.f_code.co_filename == invoke.__file__ and "arguments" in frame.f_locals:
            return thread_stack(frame.f_locals["arguments"])
    return _shown((frame, line) for frame, line in frames)


def thread_stack(arguments: object) -> tuple[str, ...]:
    """Where the thread is that runs a plain function with just these arguments."""
    for top in list(sys._current_frames().values()):  # noqa: SLF001 - documented for this
        frames = list(_outer(top))
        for depth, (frame, _) in enumerate(frames):
            if frame.f_code.co_filename == invoke.__file__ and frame.f_locals.get("arguments") is arguments:
                return _shown(reversed(frames[:depth]))
    return ()


def loop_stack(thread: int) -> tuple[str, ...]:
    """Where a thread is, the innermost frame last."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented for this
    return _shown(reversed(list(_outer(frame)))) if thread != threading.get_ident() else ()


def _awaited(work: Any) -> Iterator[tuple[FrameType, int]]:
    """The frames of a coroutine, of what it awaits, and so on; a future or the like ends it."""
    while (kinds := _kind(work)) is not None:
        frame: FrameType | None = getattr(work, kinds["frame"])
        if frame is not None:
            yield frame, frame.f_lineno
        work = getattr(work, kinds["awaits"])


def _kind(work: Any) -> Mapping[str, str] | None:
    for kinds in _KINDS:
        if hasattr(work, kinds["frame"]):
            return kinds
    return None


_KINDS: Final[tuple[Mapping[str, str], ...]] = (
    {"frame": "cr_frame", "awaits": "cr_await"},
    {"frame": "gi_frame", "awaits": "gi_yieldfrom"},
    {"frame": "ag_frame", "awaits": "ag_await"},
)


def _outer(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _shown(frames: Iterator[tuple[FrameType, int]]) -> tuple[str, ...]:
    texts = [
        encodable(f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}")
        for frame, line in frames
        if not any(part in frame.f_code.co_filename for part in OWN)
    ]
    return tuple(texts[-DEPTH:])
