"""References in worker.toml: ``${NAME}``, ``${NAME:-default}`` and ``{ file = "secret.txt" }``.

``$${`` stands for a literal ``${``. What a reference stood for is never shown in an error.
"""

import re
from collections.abc import Mapping
from pathlib import Path

LARGEST_FILE = 1024 * 1024

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?")


class Unresolved(Exception):
    """A reference cannot be resolved; the loader adds the place."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def has_reference(text: str) -> bool:
    """Whether `text` holds something to resolve."""
    return "${" in text


class References:
    """What stands behind references.

    Args:
        folder: what file references are relative to.
        environ: what environment references are looked up in.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ

    def text(self, text: str) -> str:
        """`text` with its environment references replaced.

        Raises:
            Unresolved: a variable is not set, is not UTF-8, or a reference is malformed.
        """
        return _REFERENCE.sub(self._replace, text)

    def content(self, file: str) -> str:
        """The content of a referenced file, less one newline at its end.

        Raises:
            Unresolved: it cannot be read, is larger than `LARGEST_FILE`, or is not UTF-8.
        """
        path = self._folder / self.text(file)
        try:
            if not path.is_file():
                raise Unresolved(f'file "{file}" does not exist', f"looked for {path}")
            with path.open("rb") as stream:
                content = stream.read(LARGEST_FILE + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a file name"
            raise Unresolved(f'file "{file}" cannot be read: {reason}', f"looked for {path}") from error
        if len(content) > LARGEST_FILE:
            raise Unresolved(f'file "{file}" is larger than {LARGEST_FILE} bytes', "is it the right file?")
        try:
            return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise Unresolved(f'file "{file}" is not UTF-8', "") from None

    def _replace(self, found: "re.Match[str]") -> str:
        if found[0] == "$${":
            return "${"
        name, default = found["name"], found["default"]
        if name is None:
            hint = "references are ${NAME} or ${NAME:-default}; write $${ for a literal ${"
            raise Unresolved("malformed reference", hint)
        value = self._environ.get(name)
        if default is not None and not value:  # as in a shell, `:-` replaces an empty value too
            return str(default)
        if value is None:
            raise Unresolved(f"environment variable {name} is not set", f"set it, or write ${{{name}:-default}}")
        if not _is_text(value):
            raise Unresolved(f"environment variable {name} is not UTF-8", "")
        return value


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
