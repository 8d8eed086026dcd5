"""The fixture that pytest finds by itself."""

import subprocess
import sys
from pathlib import Path

import pytest

TOML = 'worker = { name = "w", handlers = ["h"] }\n'
HANDLERS = "from hexa_worker import subscribe\n@subscribe('work')\nasync def do(number: int) -> None: ...\n"
TEST = """
def test_it(hexa_worker_harness):
    hexa_worker_harness.emit("work", 1)
    hexa_worker_harness.run_until_idle()
    assert [one.action for one in hexa_worker_harness.acked] == ["do"]
"""


def passed(folder: Path, *arguments: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return " passed" in done.stdout and done.returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "h.py").write_text(HANDLERS)
    (tmp_path / "test_it.py").write_text(TEST)
    return tmp_path


def test_the_harness_is_of_the_worker_toml_in_the_root_folder(folder: Path) -> None:
    (folder / "worker.toml").write_text(TOML)
    assert passed(folder)


def test_the_environment_names_another_worker_toml(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deploy.toml").write_text(TOML)
    monkeypatch.setenv("HEXA_WORKER_CONFIG", "deploy.toml")
    assert passed(folder)


def test_a_run_that_does_not_use_the_fixture_imports_no_runtime(folder: Path) -> None:
    (folder / "test_it.py").write_text("import sys\ndef test_it():\n    assert 'hexa_worker.app' not in sys.modules\n")
    assert passed(folder, "-p", "no:anyio")
