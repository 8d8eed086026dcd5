"""What mypy and pyright say in strict mode about modules that users write: nothing about right ones, the mistake about wrong ones."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"
MARK = re.compile(r"# E: (?P<codes>(\[[a-z-]+\] ?)+)$")
SAID = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$")

Found = dict[tuple[str, int], set[str]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """mypy's errors by file and line; one run for all samples, for it takes seconds."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(HERE / "mypy.ini")]
    command += ["--cache-dir", str(tmp_path_factory.mktemp("mypy")), *map(str, sorted(SAMPLES.glob("*.py")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SAMPLES)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Found = defaultdict(set)
    for line in done.stdout.splitlines():
        if match := SAID.match(line):
            found[Path(match["file"]).name, int(match["line"])].add(match["code"])
        elif ": error:" in line:
            raise AssertionError(line)
    return found


def marked(sample: Path) -> Found:
    found: Found = {}
    for number, line in enumerate(sample.read_text().splitlines(), start=1):
        if match := MARK.search(line):
            found[sample.name, number] = set(re.findall(r"\[([a-z-]+)\]", match["codes"]))
    return found


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_mypy_complains_about_the_marked_lines_and_no_others(said: Found, sample: Path) -> None:
    expected = marked(sample)
    actual = {place: codes for place, codes in said.items() if place[0] == sample.name}
    assert actual == expected


def test_pyright_in_strict_mode_complains_about_the_same_lines(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright", reason="`make .venv/.installed-dev` installs pyright")
    settings = {"include": [str(SAMPLES)], "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--project", str(tmp_path), "--pythonpath", sys.executable]
    done = subprocess.run([*command, "--outputjson"], capture_output=True, text=True, check=False)
    complaints = json.loads(done.stdout)["generalDiagnostics"]
    lines = {
        (Path(one["file"]).name, line + 1)
        for one in complaints
        for line in range(one["range"]["start"]["line"], one["range"]["end"]["line"] + 1)
    }
    assert lines == {place for sample in SAMPLES.glob("*.py") for place in marked(sample)}


def test_the_samples_hold_what_they_should() -> None:
    assert marked(SAMPLES / "right.py") == {}
    assert len(marked(SAMPLES / "wrong.py")) > 20
