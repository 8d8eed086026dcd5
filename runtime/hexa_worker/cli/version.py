"""``hexa-worker version``."""

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from hexa_worker.cli.project import json_option
from hexa_worker.cli.terminal import write, write_json

LIBRARIES = (
    "anyio",
    "trio",
    "uvloop",
    "msgspec",
    "aiokafka",
    "nats-py",
    "pulsar-client",
    "redis",
    "psycopg",
    "pydantic",
    "protobuf",
    "opentelemetry-sdk",
)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@click.command("version", short_help="Show versions.")
@json_option
def command(*, as_json: bool) -> None:
    """Show the versions of hexa-worker, Python and the libraries it uses.

    \b
    Example:
      hexa-worker version --json
    """
    found = {name: _installed(name) for name in LIBRARIES}
    own = version("hexa-worker")
    if as_json:
        write_json(
            {
                "hexa_worker": own,
                "python": platform.python_version(),
                "implementation": platform.python_implementation(),
                "platform": platform.platform(),
                "libraries": found,
            }
        )
        return
    write(f"hexa-worker {own}")
    write(f"python {platform.python_version()} ({platform.python_implementation()}), {platform.platform()}")
    write("\n".join(f"{name} {number}" for name, number in found.items() if number))
