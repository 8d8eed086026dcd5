"""A child that runs orders from a file instead of handlers: ``python -m tests.processes.scripted_child ARGUMENTS``.

The file ``orders`` beside worker.toml is its program, one order a line: ``[slot:]order argument``.
"""

import ctypes
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from hexa_worker.config.load import load_config
from hexa_worker.config.model import Config
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.core.message import Delivery
from hexa_worker.errors import ConfigError
from hexa_worker.processes.child import main
from hexa_worker.processes.child_context import ChildContext, Serve
from hexa_worker.telemetry.report import Report, SubscriptionReport
from hexa_worker.telemetry.stats import Counters


class ScriptedChild:
    """Performs the orders; what it does it says in the file ``said``."""

    def load(self, path: Path) -> Config:
        self.folder = path.parent
        if (path.parent / "broken").exists():
            raise ConfigError("mailbox is no number", where="worker.toml: subscriptions.do.mailbox", hint="1 or more")
        return load_config(path)

    def prepare(self, session: ChildContext) -> Serve:
        self.session = session
        self.acked = 0
        self.write("loading")
        return self.serve

    async def serve(self) -> int:
        self.write("ready")
        orders = (self.folder / "orders").read_text().splitlines()
        if orders[:1] == ["early"]:  # they are performed before it is ready
            del orders[0]
        else:
            self.tell(WorkerState.RUNNING)
        slot = self.session.arguments.slot
        for line in orders:
            wanted, _, order = line.rpartition(":")
            if not wanted or int(wanted) == slot:
                code = await self.perform(*order.split())
                if code is not None:
                    return code
        await self.session.stop.wait(1)
        self.write("drained")
        self.tell(WorkerState.STOPPED)
        return 0

    async def perform(self, order: str, *words: str) -> int | None:
        performer: Callable[..., Awaitable[int | None]] = getattr(self, f"do_{order}")
        return await performer(*words)

    async def do_exit(self, code: str) -> int:
        return int(code)

    async def do_hold(self, offset: str) -> None:
        """Take a delivery in hand and keep it."""
        number = int(offset)
        cell = self.session.journal.cells("do", number, 1)[0]
        cell.begin("work", number)
        self.write(f"holding {offset}")

    async def do_failed(self) -> None:
        self.tell(WorkerState.FAILED, "no rights")

    async def do_waiting(self) -> None:
        self.tell(WorkerState.WAITING, "broker away")

    async def do_where(self) -> None:
        """Say which folder this is, and which one worker.toml is in."""
        assert Path.cwd() == self.folder.resolve()
        self.write(f"in {Path.cwd()}")

    async def do_preflight(self) -> None:
        self.write("does preflight" if self.session.arguments.preflight else "skips preflight")

    async def do_ack(self, count: str) -> None:
        self.acked += int(count)
        self.tell(WorkerState.RUNNING)

    async def do_once(self, name: str, *rest: str) -> int | None:
        """Perform the rest in the first process that comes here."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return None
        return await self.perform(*rest)

    async def do_die(self, code: str) -> None:
        """Exit with a code, or by a signal if it is negative."""
        if code.startswith("-"):
            os.kill(os.getpid(), -int(code))
        os._exit(int(code))

    async def do_helper(self) -> None:
        """Start a process that does not end by itself."""
        helper = subprocess.Popen(["sleep", "3600"])  # noqa: ASYNC220 - it is not waited for
        self.write(f"helper {helper.pid}")

    async def do_await(self, name: str) -> None:
        """Wait for a file beside worker.toml."""
        while not (self.folder / name).exists():
            await anyio.sleep(0.01)

    async def do_run(self) -> None:
        self.tell(WorkerState.RUNNING)

    async def do_block(self) -> None:
        """Block the loop and the interpreter lock for ever."""
        self.write("blocking")
        ctypes.PyDLL(None).sleep(3600)

    async def do_stuck(self, offset: str) -> None:
        self.session.stuck(Delivery(channel="work", payload=b"", source="work", offset=int(offset)))

    async def do_ignore(self) -> None:
        """Do not end when asked to drain, end when asked to cancel."""
        await self.session.stop.wait(1)
        self.write("ignoring")
        await self.session.stop.wait(2)
        self.write("cancelled")

    async def do_deaf(self) -> None:
        """Do not end at all."""
        await self.session.stop.wait(1)
        self.write("deaf")
        await anyio.sleep_forever()

    async def do_suspects(self, offset: str) -> None:
        suspects = self.session.suspects
        self.write(f"crashes {suspects.crashes('do', 'work', int(offset)) if suspects.any() else 0}")

    async def do_settled(self, offset: str) -> None:
        self.session.suspects.settled("do", [("work", int(offset))])

    async def do_beats(self, count: str) -> None:
        """Stay for so many quarters of the watchdog's time."""
        await anyio.sleep(self.session.arguments.beat_s * int(count))
        self.write("beaten")

    async def do_orphan(self) -> None:
        """Leave a process without a parent, and wait until somebody has waited for it."""
        if not os.fork():
            os.fork()
            os._exit(0)
        os.wait()  # noqa: ASYNC222 - it has ended already
        self.write("orphaned")
        while _zombies():
            await anyio.sleep(0.01)
        self.write("no zombies")

    def write(self, text: str) -> None:
        with (self.folder / "said").open("a") as out:
            out.write(f"{self.session.arguments.slot} {os.getpid()} {text}\n")

    def tell(self, state: WorkerState, error: str = "") -> None:
        """Report first, then say so: who hears it may rely on the report's being under way."""
        counters = Counters(acked=self.acked)
        one = SubscriptionReport(
            action="do", state=state, error=error, counters=counters, destination="work", mailbox=10
        )
        self.session.report(Report(system="embedded", booted=True, subscriptions=(one,)))
        self.write(state.name.lower())


def _zombies() -> bool:
    return any(map(_is_zombie, Path("/proc").iterdir()))


def _is_zombie(process: Path) -> bool:
    try:
        return process.name.isdigit() and (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


if __name__ == "__main__":
    main(ScriptedChild())
