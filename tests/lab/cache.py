"""Where programs and jars come from: Maven, Go and apt, once per machine.

Everything but installed packages is kept in the cache directory; a lock per item lets several runs share it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.lab.errors import BrokerUnavailableError

_TAIL = 1500
_DOWNLOAD_S = 900


def cache_dir() -> Path:
    """The directory of everything downloaded or built."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "hexa-worker"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def building(name: str) -> Iterator[Path | None]:
    """Enter the making of one cached item, one process at a time.

    Yields:
        The empty directory to fill, or None if the item is already there. It counts as made when the block ends
        without an exception.
    """
    target = cache_dir() / name
    with (cache_dir() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / ".complete").exists():
            yield None
            return
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        yield target
        (target / ".complete").touch()


def run_tool(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a package tool to its end and return its output.

    Raises:
        BrokerUnavailableError: it is missing, fails or takes too long; the message ends with its last words.
    """
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=_DOWNLOAD_S,
        )
    except FileNotFoundError as error:
        message = f"{command[0]} is not installed"
        raise BrokerUnavailableError(message) from error
    except subprocess.TimeoutExpired as error:
        message = f"{command[0]} took longer than {_DOWNLOAD_S} s"
        raise BrokerUnavailableError(message) from error
    if done.returncode:
        message = f"{' '.join(command[:3])} failed: {done.stdout[-_TAIL:].strip()}"
        raise BrokerUnavailableError(message)
    return done.stdout


def cache_name(source: Path, version: str) -> str:
    """Name of the cached item that is made from a file and a version; another content has another name."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    return f"{source.name.partition('.')[0].lower()}-{version}-{digest}"


def maven_jars(pom: Path, target: Path, *options: str) -> None:
    """Copy the jars that a pom names, with all they need, into a directory."""
    need_program("mvn", package="maven")
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    run_tool(["mvn", "-B", "-ntp", "-q", "-Dstyle.color=never", *options, "-f", str(pom), *goal])


def need_program(program: str, *, package: str) -> None:
    """Have a program on the path, from a Debian package if need be."""
    if shutil.which(program) is None:
        install_package(package)
        if shutil.which(program) is None:
            message = f"package {package} brought no {program}"
            raise BrokerUnavailableError(message)


def install_package(package: str) -> None:
    """Install a Debian package without starting its service.

    Raises:
        BrokerUnavailableError: not Debian, not root, or apt fails.
    """
    if shutil.which("apt-get") is None or os.getuid() != 0:
        message = f"package {package} is not installed, and installing it needs apt and root"
        raise BrokerUnavailableError(message)
    env = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # a service is not started in runlevel 1
    with (cache_dir() / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _apt(["install", "-y", "--no-install-recommends", package], env=env)


def unpack_package(package: str, target: Path) -> None:
    """Unpack a Debian package into a directory, without installing it."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        message = f"{package} comes from a Debian package, and this is no Debian"
        raise BrokerUnavailableError(message)
    _apt(["download", package], cwd=target)
    for archive in target.glob("*.deb"):
        run_tool(["dpkg", "-x", str(archive), str(target)])
        archive.unlink()


def _apt(arguments: list[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run apt-get; if it fails, its lists may be missing or old, so once more after an update."""
    command = ["apt-get", "-q", *arguments]
    try:
        run_tool(command, env=env, cwd=cwd)
    except BrokerUnavailableError:
        run_tool(["apt-get", "-q", "update"])
        run_tool(command, env=env, cwd=cwd)
