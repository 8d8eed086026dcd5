"""docs/getting-started.md, done line by line."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "getting-started.md").read_text(encoding="utf-8")
STEP = re.compile(r"```(?:(sh)\n(.*?)|\w+\n# ([\w/]+\.\w+)\n(.*?))```", re.DOTALL)


def script() -> str:
    """The page as one script: its files are written where they stand, its commands say where they begin."""
    lines = ["set -eu"]
    for shell, commands, file, text in STEP.findall(PAGE):
        if shell:
            lines += [f"echo '=== {command.split(' --')[0]}'\n{command}" for command in commands.splitlines()]
        else:
            lines.append(f"cat > {file} <<'END_OF_FILE'\n{text}END_OF_FILE")
    return "\n".join(lines)


def test_what_a_new_user_does_works_as_the_page_says(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-c", script()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lists = [part for part in done.stdout.split("=== ") if part.startswith("hexa-worker dlq list")]
    first, last = (
        {what: what in text for what in ("ConnectionError", "negative amount", "DecodeError")} for text in lists
    )
    assert first == {"ConnectionError": True, "negative amount": True, "DecodeError": True}, lists[0]
    assert last == {"ConnectionError": False, "negative amount": True, "DecodeError": True}, lists[1]
    assert "1 passed" in done.stdout
    assert done.stderr.count('"message":"charged"') == 11
