"""What a process does with the files of what is parked, see also `tests.e2e.test_cli_park`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Acked
from hexa_worker.processes import parked
from hexa_worker.processes.parked import ParkedCommand, ParkedFiles, counts, write

pytestmark = pytest.mark.anyio


class Keeps:
    """A settler that has one delivery parked."""

    def __init__(self) -> None:
        delivery = Delivery(channel="work", payload=b"", source="work", offset=7)
        self.parked: Any = (SimpleNamespace(delivery=delivery, settlement=Acked(delivery), reason="no rights"),)

    def drop_parked(self, _ids: object) -> int:
        self.parked = ()
        return 1


def supervisor_of(settler: Keeps) -> Any:
    worker = SimpleNamespace(settler=settler)
    return SimpleNamespace(subscriptions=[SimpleNamespace(plan=SimpleNamespace(action="do"), worker=worker)])


async def test_a_command_is_for_the_process_that_it_was_given_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "LOOK_S", 0.001)
    command = tmp_path / "slot-0.do"
    write(command, ParkedCommand(do="drop"))  # to a process that was killed before it looked
    settler = Keeps()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(ParkedFiles(tmp_path, 0).run, supervisor_of(settler))
            while counts(tmp_path) != {"do": 1}:
                await anyio.sleep(0.001)
            await anyio.sleep(0.02)
            assert settler.parked
            write(command, ParkedCommand(do="drop"))
            while command.exists() or counts(tmp_path):
                await anyio.sleep(0.001)
            assert not settler.parked
            group.cancel_scope.cancel()
    assert not command.exists()
    assert not counts(tmp_path)


@pytest.fixture
def writable(tmp_path: Path) -> Path:
    """A folder that others may write to."""
    tmp_path.chmod(0o777)
    return tmp_path


async def test_a_folder_that_others_may_write_to_commands_nothing(
    writable: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parked, "LOOK_S", 0.001)
    settler = Keeps()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(ParkedFiles(writable, 0).run, supervisor_of(settler))
            while not caplog.messages:
                await anyio.sleep(0.001)
            write(writable / "slot-0.do", ParkedCommand(do="drop"))
            await anyio.sleep(0.02)
            group.cancel_scope.cancel()
    assert settler.parked
    assert len(caplog.messages) == 1
    assert "may be written to by others" in caplog.messages[0]
