"""Who holds leases, when the file was replaced and those of the old one still live."""

import sqlite3
from contextlib import closing
from pathlib import Path

from hexa_worker.drivers.embedded.leasing.members import Members
from hexa_worker.drivers.embedded.storage.schema import migrate


def new_file(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, str(path))
    return connection


def test_an_owner_lives_on_when_one_of_the_file_before_goes(tmp_path: Path) -> None:
    locks = tmp_path / "hexa.db-owners"
    with closing(new_file(tmp_path / "old.db")) as old, closing(new_file(tmp_path / "new.db")) as new:
        before, owner, other = (Members(locks, 60.0) for _ in range(3))
        before.register(old)
        owner.register(new)
        other.register(new)
        before.close()
        assert other.dead(new) == []
        assert owner.dead(new) == []
        owner.close()
        assert other.dead(new) == [owner.id]
        other.close()
