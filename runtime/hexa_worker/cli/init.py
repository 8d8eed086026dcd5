"""``hexa-worker init``: a new project that runs at once."""

import re
import shlex
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from hexa_worker.cli.terminal import write
from hexa_worker.errors import ConfigError

TEMPLATES = {
    "worker.toml": "worker.toml.txt",
    "handlers/__init__.py": None,
    "handlers/work.py": "work.py.txt",
    "tests/test_work.py": "test_work.py.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
}
"""Where each file goes, and the template it is made of; None: an empty file."""


@click.command("init", short_help="Make a new project that runs at once.")
@click.argument("folder", metavar="[DIR]", default=".")
def command(folder: str) -> int:
    """Make a new project in DIR, or in the current folder.

    It has a worker.toml, a handler module and a test. Existing files are never overwritten.

    \b
    Example:
      hexa-worker init orders
    """
    target = Path(folder)
    try:
        _scaffold(target)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename or target}: {error.strerror}") from error
    write(f"made a project in {target.resolve()}\n\nnext:")
    if target.resolve() != Path.cwd():
        write(f"  cd {shlex.quote(folder)}")
    write("  hexa-worker check\n  hexa-worker emit work --payload '{\"id\": 1}'\n  hexa-worker run --until-idle")
    return 0


def _scaffold(target: Path) -> None:
    existing = [name for name in TEMPLATES if (target / name).exists() and name != ".gitignore"]
    if existing:
        raise ConfigError(f"{target / existing[0]} exists already", hint="nothing was written; choose another folder")
    name = project_name(target.resolve().name)
    for path, template in TEMPLATES.items():
        if (target / path).exists():
            continue
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(_filled(template, name), encoding="utf-8")


def _filled(template: str | None, name: str) -> str:
    if template is None:
        return ""
    text = (files("hexa_worker.cli") / "templates" / template).read_text(encoding="utf-8")
    return Template(text).substitute(name=name)


def project_name(folder: str) -> str:
    """A worker's name made of a folder's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder).strip("-._")
    return name[:100] or "worker"
