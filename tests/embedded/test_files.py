"""The file itself: who may read it, and what is said when it cannot be used."""

import sqlite3
import stat
from pathlib import Path

import pytest

from hexa_worker.core.message import Message
from hexa_worker.drivers.embedded import EmbeddedDriver
from hexa_worker.drivers.embedded.storage.files import file_system_of
from hexa_worker.drivers.embedded.storage.schema import VERSION
from hexa_worker.errors import DriverError, DriverRejected
from tests.embedded.things import publish, spec, take

pytestmark = pytest.mark.anyio


async def refused(path: Path) -> str:
    driver = EmbeddedDriver(path)
    with pytest.raises(DriverRejected) as caught:
        await driver.open()
    await driver.close()
    return str(caught.value)


def overwrite(path: Path, start: int) -> None:
    """Garbage from `start` to the end."""
    content = bytearray(path.read_bytes())
    content[start:] = b"\xa5" * (len(content) - start)
    path.write_bytes(content)


def names_and_modes(folder: Path) -> dict[str, int]:
    """The rights of each file in `folder`."""
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def test_nobody_else_may_read_any_of_its_files(driver: EmbeddedDriver, path: Path) -> None:
    await publish(driver, 1)
    files = ("hexa.db", "hexa.db-wal", "hexa.db-shm", "hexa.db-owners")
    assert names_and_modes(path.parent) == dict.fromkeys(files, 0o600)
    assert names_and_modes(path.parent.parent)[path.parent.name] == 0o700


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"important notes, not a database\n" * 100)
    assert "notes.txt" in await refused(path)
    assert path.read_bytes() == b"important notes, not a database\n" * 100


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    assert "another program's database" in await refused(path)


async def test_a_file_of_a_newer_version_is_refused(driver: EmbeddedDriver, path: Path) -> None:
    await driver.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    assert "newer hexa-worker" in await refused(path)


async def test_a_file_of_the_first_version_is_brought_up_to_date(driver: EmbeddedDriver, path: Path) -> None:
    await driver.publish([Message(channel="c", payload=b"kept")])
    await driver.close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE postponed")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    again = EmbeddedDriver(path)
    await again.open()
    assert [one.payload for one in await again.browse("c", -1, 10)] == [b"kept"]
    await again.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert connection.execute("SELECT count(*) FROM postponed").fetchone() == (0,)
    connection.close()


async def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert "not a regular file" in await refused(tmp_path)


async def test_a_damaged_page_is_an_error_that_names_the_file(driver: EmbeddedDriver, path: Path) -> None:
    await driver.declare([spec()])
    for _ in range(20):
        await publish(driver, 500)
    await driver.close()
    overwrite(path, 4096 * 2)
    again = EmbeddedDriver(path)

    async def use() -> None:
        await again.open()
        await take(await again.subscribe(spec()), 1)

    with pytest.raises(DriverError) as caught:
        await use()
    assert path.name in str(caught.value)
    await again.close()


def test_the_file_system_is_only_named_where_the_mounts_agree(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    here = f"{device >> 8 & 0xFFF}:{device & 0xFF | device >> 12 & 0xFFF00}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 {here} / /x rw shared:1 - nfs4 server:/x rw\n2 0 999:9 / /y rw - ext4 /dev/y rw\nrubbish\n")
    assert file_system_of(tmp_path, mounts) == "nfs4"
    mounts.write_text(f"1 0 {here} / /x rw - nfs4 a rw\n2 0 {here} / /y rw - ext4 b rw\n")
    assert file_system_of(tmp_path, mounts) is None
    assert file_system_of(tmp_path, tmp_path / "missing") is None
