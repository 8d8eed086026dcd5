"""Imports only go down, and the core stays pure: the contracts in pyproject.toml."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")


def lint(root: Path, config: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINTER), "--config", str(config), "--no-cache"]
    environment = {"PYTHONPATH": str(root), "PATH": str(LINTER.parent)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_the_import_contracts_are_kept() -> None:
    done = lint(ROOT / "runtime", ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("core/ids.py", "import time", "The core is pure"),
        ("core/ids.py", "import anyio", "The core is pure"),
        ("errors.py", "import logging", "The core is pure"),
        ("core/ids.py", "import hexa_worker.codecs", "Imports only go down"),
        ("drivers/memory/driver.py", "import hexa_worker.actors.lane", "Imports only go down"),
        ("emitting/emitter.py", "import hexa_worker.actors.lane", "Imports only go down"),
        ("subscriptions/plan.py", "import hexa_worker.app", "Imports only go down"),
        ("drivers/kit/delay_queue.py", "import hexa_worker.drivers.memory", "Drivers share only the kit"),
    ],
)
def test_a_wrong_import_breaks_a_contract(tmp_path: Path, module: str, line: str, broken: str) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "runtime" / "hexa_worker", tmp_path / "hexa_worker", ignore=ignored)
    file = tmp_path / "hexa_worker" / module
    file.write_text(file.read_text() + f"\n{line}\n")
    done = lint(tmp_path, ROOT / "pyproject.toml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{broken} BROKEN" in done.stdout
