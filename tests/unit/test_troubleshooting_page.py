"""What the page about troubleshooting quotes is what the code says: a line that was reworded is to fail here."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
VARIES = "…"
FILLED_IN = re.compile(r"%[-.\d]*[a-z]")


def text_of(node: ast.Constant | ast.JoinedStr) -> str:
    """A literal's text, without what is filled in."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return FILLED_IN.sub(VARIES, "".join(str(one.value) if isinstance(one, ast.Constant) else VARIES for one in parts))


def texts_in(source: str) -> Iterator[str]:
    """What it may write: texts of one line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            text = text_of(node)
            if "\n" not in text:
                yield text


@cache
def texts() -> str:
    """Every text of the package, one a line."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "runtime" / "hexa_worker").rglob("*.py"))
    return "\n".join(text for source in sources for text in texts_in(source))


def fixed_words(quoted: str) -> re.Pattern[str]:
    """Finds the text that a quoted line is made of."""
    return re.compile(r"[^\n]*".join(re.escape(part.strip()) for part in quoted.split(VARIES) if part.strip()))


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_line_is_one_that_the_code_writes(quoted: str) -> None:
    assert fixed_words(quoted).search(texts()), "reword the page, or take the row out"


def test_most_rows_quote_a_line() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| line ")]
    assert len(rows) == len(QUOTED) == len(set(QUOTED))
    assert len(QUOTED) >= 30


def test_words_that_nobody_writes_are_not_found() -> None:
    assert not fixed_words("the broker … is fond of you").search(texts())
