"""Checks parsed TOML against the model, table by table, and gathers every mistake with its key path.

msgspec stops at the first mistake and does not name the key of a table, so the walk is done here; msgspec
still does the final conversion and thus has the last word.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

from hexa_worker.config.kinds import in_range, is_kind, kind, listed, parse_scalar
from hexa_worker.config.mistakes import key_path, suggest
from hexa_worker.config.references import References, Unresolved, has_reference
from hexa_worker.config.secret import Secret, looks_secret, shown
from hexa_worker.core.scrubbing import HIDDEN
from hexa_worker.errors import ConfigError

Keys = tuple[str | int, ...]
_WRONG = object()
"""What stands for a value that has been reported."""


def decode_hook(cls: type, value: Any) -> Any:
    """The hook of msgspec for the model's own types."""
    if cls is Secret:
        return value if isinstance(value, Secret) else Secret(value)
    raise NotImplementedError(cls)


def old_names(cls: type) -> Mapping[str, str]:
    """The present names of the keys of a table, by the names they had."""
    return getattr(cls, "OLD_NAMES", {})


class Check:
    """One pass over one file.

    Args:
        file: how errors call the file.
        references: what stands behind references; None where there are none (a decorator's arguments).

    Attributes:
        mistakes: what was found wrong so far.
        renamed: keys that were called by an old name, as ``(old name, present name)``, each with where it stands.
    """

    def __init__(self, file: str, references: References | None) -> None:
        self.mistakes: list[ConfigError] = []
        self.renamed: dict[tuple[str, str], list[str]] = {}
        self._file = file
        self._references = references

    def report(self, keys: Keys, message: str, hint: str = "") -> object:
        """Note a mistake at `keys`."""
        place = key_path(keys)
        self.mistakes.append(ConfigError(message, where=f"{self._file}: {place}" if place else self._file, hint=hint))
        return _WRONG

    def table(self, value: Any, cls: type, keys: Keys = ()) -> Any:
        """`value` as an instance of the struct `cls`; None when something in it was reported."""
        known = len(self.mistakes)
        plain = self._visit(value, inspect.type_info(cls), keys)
        if len(self.mistakes) > known:
            return None
        try:
            return msgspec.convert(plain, cls, dec_hook=decode_hook)
        except msgspec.ValidationError as error:  # a rule that only msgspec knows
            self.report(keys, str(error))
            return None

    def _visit(self, value: Any, type_: inspect.Type, keys: Keys) -> Any:  # noqa: PLR0911 - one line per kind
        """The resolved plain value; `_WRONG` once a mistake was reported."""
        match type_:
            case inspect.Metadata():
                return self._visit_described(value, type_, keys)
            case inspect.UnionType():
                return self._visit_union(value, type_, keys)
            case inspect.StructType():
                return self._visit_struct(value, type_, keys)
            case inspect.DictType():
                if not isinstance(value, dict):
                    return self._wrong_kind(value, "a table", keys)
                return {key: self._visit(one, type_.value_type, (*keys, key)) for key, one in value.items()}
            case inspect.VarTupleType() | inspect.ListType():
                return self._visit_array(value, type_, keys)
            case _:
                return self._visit_scalar(value, type_, keys)

    def _visit_described(self, value: Any, type_: inspect.Metadata, keys: Keys) -> Any:
        """As `_visit`; a range or pattern that was broken is called by its description."""
        if isinstance(type_.type, inspect.StrType) and type_.type.pattern is not None:
            return self._visit_scalar(value, type_.type, keys, kind(type_))
        return self._visit(value, type_.type, keys)

    def _visit_union(self, value: Any, type_: inspect.UnionType, keys: Keys) -> Any:
        members = [member for member in type_.types if not isinstance(member, inspect.NoneType)]
        if len(members) == 1:
            return self._visit(value, members[0], keys)
        structs = [member for member in members if isinstance(member, inspect.StructType)]
        if structs and (len(structs) == len(members) or isinstance(value, dict)):
            return self._visit_tagged(value, structs, keys)
        for member in members:
            if is_kind(value, member):
                return self._visit(value, member, keys)
        return self._wrong_kind(value, " or ".join(kind(member) for member in members), keys)

    def _visit_tagged(self, value: Any, structs: list[inspect.StructType], keys: Keys) -> Any:
        if len(structs) == 1:
            return self._visit_struct(value, structs[0], keys)
        if not isinstance(value, dict):
            return self._wrong_kind(value, "a table", keys)
        field = str(structs[0].tag_field)
        tags = {str(struct.tag): struct for struct in structs}
        if field not in value:
            return self.report((*keys, field), "is missing", f"one of {', '.join(tags)}")
        written = value[field]
        tag = self._visit_scalar(written, inspect.StrType(), (*keys, field))
        if tag is _WRONG:
            return tag
        if tag not in tags:
            hint = suggest(tag, tags) if tag == written else ""  # what a reference stands for is not shown
            return self.report((*keys, field), f"unknown {field} {shown(written)}", hint or f"one of {', '.join(tags)}")
        return self._visit_struct({**value, field: tag}, tags[tag], keys)

    def _visit_struct(self, value: Any, type_: inspect.StructType, keys: Keys) -> Any:
        if not isinstance(value, dict):
            return self._wrong_kind(value, "a table", keys)
        found = len(self.mistakes)
        arguments = self._references is None
        fields = {field.name if arguments else field.encode_name: field for field in type_.fields}
        plain: dict[str, Any] = {}
        for key, one in value.items():
            name = self._present_name(key, value, type_.cls, keys)
            if name in fields:
                plain[fields[name].encode_name] = self._visit(one, fields[name].type, (*keys, key))
            elif key == type_.tag_field:
                plain[key] = one
            else:
                self.report((*keys, key), "unknown key", suggest(key, fields))
        for name, field in fields.items():
            if field.required and name not in value:
                self.report((*keys, name), "is missing", f"it must be {kind(field.type)}")
        if len(self.mistakes) > found:
            return _WRONG
        self._construct(plain, value, type_, keys)
        return plain

    def _present_name(self, key: str, table: dict[str, Any], cls: type, keys: Keys) -> str:
        """What a key is called now."""
        name = old_names(cls).get(key)
        if name is None:
            return key
        if name in table:
            self.report((*keys, key), f"is the old name of {name}, which is given too", "leave it out")
        self.renamed.setdefault((key, name), []).append(key_path(keys))
        return name

    def _construct(self, plain: dict[str, Any], raw: dict[str, Any], type_: inspect.StructType, keys: Keys) -> None:
        """Let the struct's own ``__post_init__`` speak."""
        try:
            msgspec.convert(plain, type_.cls, dec_hook=decode_hook)
        except msgspec.ValidationError as error:
            message = str(error.__cause__ or error)
            first, _, rest = message.partition(" ")
            field = next((field for field in type_.fields if field.encode_name == first and first in raw), None)
            if field is None:
                self.report(keys, message)
            else:  # "heartbeat_s must be …": name the key itself, with the value as it was written
                self.report((*keys, first), f"{rest}, not {_displayed(raw[first], field.type, (*keys, first))}")

    def _visit_array(self, value: Any, type_: inspect.VarTupleType | inspect.ListType, keys: Keys) -> Any:
        if isinstance(value, str) and self._references is not None and has_reference(value):
            return self._visit_split(value, type_, keys)
        if not isinstance(value, list):
            return self._wrong_kind(value, kind(type_), keys)
        if len(value) < (type_.min_length or 0):
            return self.report(keys, "must not be empty" if not value else f"needs at least {type_.min_length} items")
        if type_.max_length is not None and len(value) > type_.max_length:
            return self.report(keys, f"has {len(value)} items", f"at most {type_.max_length}")
        return [self._visit(one, type_.item_type, (*keys, index)) for index, one in enumerate(value)]

    def _visit_split(self, written: str, type_: inspect.VarTupleType | inspect.ListType, keys: Keys) -> Any:
        """A list that a reference stands for: ``"${SERVERS}"``, separated by commas."""
        assert self._references is not None  # noqa: S101 - it was asked
        try:
            items = [one.strip() for one in self._references.text(written).split(",")]
        except Unresolved as error:
            return self.report(keys, error.message, error.hint)
        known = len(self.mistakes)
        found = self._visit_array([one.replace("${", "$${") for one in items if one], type_, keys)
        if len(self.mistakes) > known:  # they may show what it stood for
            del self.mistakes[known:]
            self.report(keys, f"must be {kind(type_)}, separated by commas, not {shown(written)}")
        return found

    def _visit_scalar(self, raw: Any, type_: inspect.Type, keys: Keys, wanted: str = "") -> Any:
        try:
            value, referenced = self._resolve(raw, type_)
        except Unresolved as error:
            return self.report(keys, error.message, error.hint)
        if referenced and isinstance(type_, inspect.BoolType | inspect.IntType | inspect.FloatType):
            value = parse_scalar(value, type_)
        if not is_kind(value, type_):
            return self._wrong_kind(raw, wanted or kind(type_), keys, type_)
        if isinstance(value, str) and "\x00" in value:
            return self.report(keys, "holds a NUL character")
        if isinstance(type_, inspect.LiteralType) and value not in type_.values:
            names = [str(one) for one in type_.values]
            return self.report(
                keys, f"must be {listed(names)}, not {_displayed(raw, type_, keys)}", _near(value, names)
            )
        if not in_range(value, type_):
            return self._wrong_kind(raw, wanted or kind(type_), keys, type_)
        return value

    def _resolve(self, raw: Any, type_: inspect.Type) -> tuple[Any, bool]:
        """The value that `raw` stands for, and whether it came through a reference."""
        if self._references is None:
            return raw, False
        if isinstance(raw, str) and has_reference(raw):
            return self._references.text(raw), True
        is_text = isinstance(type_, inspect.StrType | inspect.CustomType)
        if is_text and isinstance(raw, dict) and raw.keys() == {"file"} and isinstance(raw["file"], str):
            return self._references.content(raw["file"]), True
        return raw, False

    def _wrong_kind(self, value: Any, wanted: str, keys: Keys, type_: inspect.Type | None = None) -> object:
        return self.report(keys, f"must be {wanted}, not {_displayed(value, type_, keys)}")


def _displayed(raw: Any, type_: inspect.Type | None, keys: Keys) -> str:
    """A value as it was written; references are not resolved, secrets hidden."""
    names = [key for key in keys if isinstance(key, str)]
    if _is_secret(type_) or (names and looks_secret(names[-1])):
        return HIDDEN
    return shown(raw)


def _is_secret(type_: inspect.Type | None) -> bool:
    if isinstance(type_, inspect.Metadata):
        return _is_secret(type_.type)
    if isinstance(type_, inspect.UnionType):
        return any(_is_secret(one) for one in type_.types)
    return isinstance(type_, inspect.CustomType)


def _near(value: Any, names: list[str]) -> str:
    hint = suggest(value, names) if isinstance(value, str) else ""
    return hint if hint.startswith("did") else ""
