"""What README says is true, and was tried."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_page_is_linked() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)\)", README))
    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


def test_the_test_in_readme_passes_with_pytest_alone(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(# test_orders\.py.*?)```", README, re.DOTALL)
    for name in ("worker.toml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "handlers", tmp_path / "handlers")
    (tmp_path / "test_orders.py").write_text(source)
    plugins = [part for name in ("timeout", "rerunfailures", "xdist") for part in ("-p", f"no:{name}")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "test_orders.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
