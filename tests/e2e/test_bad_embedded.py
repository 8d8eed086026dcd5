"""An embedded file that cannot be used: one line, and exit code 2 at the start of a worker."""

import os
import sqlite3
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.project import Project

_OBEY_MODES = """
import ctypes, os, sys
library = ctypes.CDLL(None, use_errno=True)
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert not library.prctl(24, capability, 0, 0, 0), os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"""
OBEYING = (sys.executable, "-c", _OBEY_MODES) if os.geteuid() == 0 else ()
"""Words before a command that make root obey the modes of files, as everybody else does."""


@pytest.fixture
def project(project: Project) -> Iterator[Project]:
    """One whose files can be removed afterwards."""
    yield project
    for path in (project.folder, *project.folder.rglob("*")):
        path.chmod(0o700)


@pytest.mark.parametrize("sealed", ["file", "folder"])
def test_what_may_not_be_written_ends_a_worker_with_one_line_and_exit_code_2(project: Project, sealed: str) -> None:
    project.emit({"id": 1})
    var = project.folder / "var"
    for path in var.glob("hexa.db-*"):
        path.unlink()
    if sealed == "file":
        (var / "hexa.db").chmod(0o400)
    else:
        var.chmod(0o500)
    *warnings, found = project("check", "--connect", code=2, prefix=OBEYING).stderr.splitlines()
    assert all(one.startswith("warning: ") for one in warnings)  # the folder's other users, by their keys
    for text in (found.removeprefix("error: "), project.refusal("run", "--until-idle", code=2, prefix=OBEYING)):
        assert "var" in text
        assert "this user" in text, text


def test_a_folder_that_cannot_be_made_ends_a_worker_with_one_line_and_exit_code_2(project: Project) -> None:
    (project.folder / "worker.toml").write_text((project.folder / "worker.toml").read_text().replace("var/", "no/way/"))
    (project.folder / "no").mkdir(mode=0o500)
    text = project.refusal("run", code=2, prefix=OBEYING)
    assert "no/way" in text
    assert "needs a folder it may write to" in text


@pytest.mark.parametrize(
    ("damage", "advice"),
    [("not SQLite", "name another file"), ("torn", "damaged"), ("another program's", "use another file")],
)
def test_a_damaged_file_ends_a_worker_with_one_line_and_exit_code_2(project: Project, damage: str, advice: str) -> None:
    project.emit({"id": 1})
    path = project.folder / "var" / "hexa.db"
    for beside in path.parent.glob("hexa.db-*"):
        beside.unlink()
    content = path.read_bytes()
    if damage == "not SQLite":
        path.write_bytes(b"no database at all " * 500)
    elif damage == "torn":
        path.write_bytes(content[:100] + os.urandom(len(content) - 100))
    else:
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (x)")
        connection.close()
    for command in (("check", "--connect"), ("run",)):
        text = project.refusal(*command, code=2)
        assert "var/hexa.db" in text
        assert advice in text
