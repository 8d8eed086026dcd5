"""ARCHITECTURE.md names what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "runtime" / "hexa_worker"
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```$(.*?)^```$|`([^`\n]+)`", TEXT, re.DOTALL | re.MULTILINE)
PATHS = sorted({path for pair in CODE for path in re.findall(r"(?:\w+/)+(?:\w+\.py)?|\w+\.py", "".join(pair))})


@pytest.mark.parametrize("path", PATHS)
def test_every_module_and_folder_that_is_named_exists(path: str) -> None:
    place = ROOT / path if path.startswith("runtime/") else PACKAGE / path
    assert place.is_dir() if path.endswith("/") else place.is_file()


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)]+)\)", TEXT))
def test_every_link_leads_to_a_file(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_package_of_the_runtime_is_named() -> None:
    packages = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert {f"{name}/" for name in packages} <= set(PATHS)
