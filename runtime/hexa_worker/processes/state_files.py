"""The files of one worker in its state_dir."""

from pathlib import Path
from typing import NamedTuple


class StateFiles(NamedTuple):
    """Where they are.

    Attributes:
        folder: ``<state_dir>/<worker name>.journal``: journals, stacks and suspects.
        lock: held by the parent as long as it lives.
    """

    folder: Path
    lock: Path

    @classmethod
    def of(cls, state_dir: Path | str, name: str) -> "StateFiles":
        """The layout of the worker called `name`."""
        state = Path(state_dir)
        return cls(state / f"{name}.journal", state / f"{name}.lock")

    def journal(self, slot: int) -> Path:
        """The crash journal of one process."""
        return self.folder / f"slot-{slot}"

    def stack(self, slot: int) -> Path:
        """Where one process writes its stacks when asked."""
        return self.folder / f"slot-{slot}.stack"

    def journals(self) -> list[Path]:
        """The journals that exist: of processes nobody has looked after yet."""
        return sorted(path for path in self.folder.glob("slot-*") if path.suffix != ".stack")
