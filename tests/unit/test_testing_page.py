"""What docs/testing.md and docs/testing-cookbook.md show was tried."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import hexa_worker.testing

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
COOKBOOK = (ROOT / "docs" / "testing-cookbook.md").read_text(encoding="utf-8")
EXAMPLES = {
    name: text for text, name in re.findall(r"```python\n(# (test_\w+\.py)\n.*?)```", PAGE + COOKBOOK, re.DOTALL)
}
A_FEW_CLAIMS = "not keeps_it or publish"
"""The conformance suite itself is run elsewhere."""


def test_the_examples_pass_with_pytest_alone(tmp_path: Path) -> None:
    for file in ("worker.toml", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / "handlers", tmp_path / "handlers")
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    plugins = [part for plugin in ("timeout", "rerunfailures", "xdist") for part in ("-p", f"no:{plugin}")]
    command = [sys.executable, "-m", "pytest", *plugins, "-k", A_FEW_CLAIMS, *EXAMPLES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_tool_is_shown() -> None:
    shown = {"Harness", "simulate", "FaultRates", "VirtualTime", "check_driver", "claims", "ConformanceContext"}
    assert shown <= set(hexa_worker.testing.__all__)
    assert all(name in PAGE for name in shown)
    assert len(EXAMPLES) == len(re.findall(r"^# test_\w+\.py$", PAGE + COOKBOOK, re.MULTILINE)) == 12
