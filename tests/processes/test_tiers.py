"""What the summary of a test run tells of its tiers and of second tries."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RACE = """\
from pathlib import Path

def test_loses_its_race_once():
    mark = Path(__file__).with_name("lost")
    lost = mark.exists()
    mark.touch()
    assert lost, "the race was lost"

def test_has_no_race():
    pass
"""


def summary_of_run(folder: Path, *options: str, ci: str) -> str:
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}\n")
    (folder / "conftest.py").write_text('pytest_plugins = ["tests.tiers"]\n')
    (folder / "test_race.py").write_text(RACE)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pytest_rerunfailures", "-p", "xdist", *options],
        cwd=folder,
        env={"CI": ci, "PATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout


@pytest.mark.parametrize("options", [(), ("-n", "1", "--dist", "loadgroup")], ids=["alone", "xdist"])
def test_ci_tries_a_lost_race_again_and_names_it_in_the_last_lines(tmp_path: Path, options: tuple[str, ...]) -> None:
    *_, title, name, error, where, total = summary_of_run(tmp_path, *options, ci="true").splitlines()
    assert "1 failed at first and ran again" in title
    assert name.startswith("AGAIN test_race.py::test_loses_its_race_once")
    assert "the race was lost" in error
    assert "2 passed" in total
    assert "1 rerun" in total
    assert where


def test_nothing_runs_again_elsewhere(tmp_path: Path) -> None:
    summary = summary_of_run(tmp_path, ci="")
    assert "1 failed, 1 passed" in summary
    assert "AGAIN" not in summary
    assert "processes: 0 s of 240 s" in summary
