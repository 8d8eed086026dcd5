"""The worker's folder is for its user alone, and an application that is its own interpreter is told apart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.conftest import MakeStage
from tests.processes.stage import ROOT


def test_state_dir_is_made_for_its_user_alone_whatever_the_umask(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start(umask=0)
    stage.hear("running")
    for path in (stage.folder / "var", stage.folder / "var" / "staged.journal"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert stage.stop() == 0


def test_a_folder_that_is_a_link_is_refused_and_what_it_points_to_stays(make_stage: MakeStage, tmp_path: Path) -> None:
    stage = make_stage()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "slot-0").write_text("precious")
    (stage.folder / "var").mkdir()
    (stage.folder / "var" / "staged.journal").symlink_to(elsewhere)
    stage.start()
    assert stage.ended() == 2
    assert "is a link" in "\n".join(stage.logs)
    assert (elsewhere / "slot-0").read_text() == "precious"


@pytest.mark.parametrize("name", ["staged.journal/slot-0.stack", "staged.journal/suspects.new", "staged.lock"])
def test_a_file_that_is_a_link_is_not_followed(make_stage: MakeStage, tmp_path: Path, name: str) -> None:
    stage = make_stage("once a hold 7", "once b die 70")
    target = tmp_path / "target"
    target.write_text("precious")
    (stage.folder / "var" / "staged.journal").mkdir(mode=0o700, parents=True)
    (stage.folder / "var" / name).symlink_to(target)
    stage.start()
    if name == "staged.journal/suspects.new":
        assert "cannot be noted" in stage.log("cannot be noted")["message"]
        stage.stop()
    else:
        stage.until(lambda: any("staged" in line or "symbolic" in line for line in stage.logs), "a refusal")
        stage.parent.terminate()
        stage.ended()
    assert target.read_text() == "precious"


@pytest.mark.parametrize(("name", "mode"), [("var", 0o777), ("var/staged.journal", 0o770)])
def test_a_folder_that_others_may_write_to_is_refused(make_stage: MakeStage, name: str, mode: int) -> None:
    stage = make_stage()
    (stage.folder / "var" / "staged.journal").mkdir(mode=0o700, parents=True)
    (stage.folder / name).chmod(mode)
    stage.start()
    assert stage.ended() == 2
    assert "may be written to by" in "\n".join(stage.logs)


@pytest.mark.parametrize("flag", [True, False])
def test_a_frozen_application_says_so_once_and_starts_nothing_more(tmp_path: Path, flag: bool) -> None:
    """As freezers make it: whatever its arguments are, the application does what it does."""
    (tmp_path / "worker.toml").write_text(
        '[worker]\nname = "frozen"\nhandlers = ["h"]\nprocess_restart.max_restarts = 0\n'
    )
    (tmp_path / "h.py").write_text("")
    application = tmp_path / "application"
    application.write_text(
        f"#!{sys.executable}\nimport os, sys\nopen('started', 'a').write('x')\n"
        f"sys.frozen = {flag}\nsys.executable = {str(application)!r}\nsys.path.insert(0, {str(ROOT / 'runtime')!r})\n"
        "from hexa_worker.cli import main\nsys.argv[1:] = ['run']\nsys.exit(main())\n"
    )
    application.chmod(0o700)
    run = subprocess.run([application], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == (2 if flag else 1)
    assert run.stderr.count("a frozen application cannot run worker processes") == 1
    assert len((tmp_path / "started").read_text()) == (1 if flag else 2)
    assert os.environ.get("HEXA_WORKER_PARENT") is None
