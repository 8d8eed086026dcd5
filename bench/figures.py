"""What a measurement is, and how measurements become bench/RESULTS.md."""

import os
import platform
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = (
    "hexa-worker", "anyio", "trio", "uvloop", "msgspec", "aiokafka", "nats-py", "pulsar-client", "redis", "faststream",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table.

    Attributes:
        name: what was measured.
        value: with its unit.
        raw: the raw limit beside it, with its unit; empty where there is none.
        ratio: value to raw; None where it makes no sense.
        bar: what it must reach; empty without a bar.
        met: whether it did; None without a bar.
    """

    name: str
    value: str
    raw: str = ""
    ratio: float | None = None
    bar: str = ""
    met: bool | None = None


def rate(count: int, seconds: float) -> str:
    """A rate, readable."""
    return f"{count / seconds:,.0f}/s"


def milliseconds(seconds: float) -> str:
    """A duration, readable."""
    return f"{seconds * 1000:.2f} ms"


def table(title: str, figures: list[Figure]) -> str:
    """A section of the results as Markdown."""
    lines = [f"## {title}", "", "| measured | value | raw limit | ratio | bar | met |", "|---|---|---|---|---|---|"]
    for one in figures:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        met = {True: "yes", False: "**no**", None: ""}[one.met]
        lines.append(f"| {one.name} | {one.value} | {one.raw} | {ratio} | {one.bar} | {met} |")
    return "\n".join([*lines, ""])


def machine() -> str:
    """What the figures were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return "\n".join(
        [
            (
                f"- {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({model}), {int(memory) // 2**20} GiB,"
                f" {platform.system()} {platform.release()}, load {os.getloadavg()[0]:.1f} at the start"
            ),
            f"- Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}",
        ]
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write_section(name: str, text: str, results: Path = RESULTS) -> None:
    """Put a section into the results file, in place of the one with the same name."""
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{text}\n{end}\n"
    old = results.read_text(encoding="utf-8") if results.exists() else "# Results\n\n"
    if begin in old:
        head, _, rest = old.partition(begin)
        _, _, tail = rest.partition(f"{end}\n")
        old = head + block + tail
    else:
        old = old.rstrip("\n") + "\n\n" + block
    results.write_text(old, encoding="utf-8")
