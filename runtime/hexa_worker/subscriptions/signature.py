"""Understands a handler function: how it is called and what it asks for.

A mistake is a `ConfigError` that names the place and says what to do; none is left for the first message.
"""

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from typing_extensions import TypeVar

from hexa_worker.codecs import Codec, make_decoder
from hexa_worker.codecs.annotations import bare, text_of, without_none
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.api import BatchContext, Context
from hexa_worker.subscriptions.plan import Handler, Style

_SHAPE = "a handler takes (payload) or (payload, ctx)"
_CONTEXT_TEXT = re.compile(r"([A-Za-z_]\w*\.)*(Batch)?Context(\[.*\])?")
_UNRESOLVED = object()


def understand(function: Callable[..., Any], *, batch: bool = False, codec: Codec = "json") -> Handler:
    """What the runtime must know of a handler.

    Args:
        function: what the user marked.
        batch: whether it is to get batches.
        codec: how its payloads are written.

    Raises:
        ConfigError: it cannot be a handler as it is.
    """
    where = place_of(function)
    try:
        return _understand(function, where, batch=batch, codec=codec)
    except ConfigError as error:
        if error.where:
            raise
        raise ConfigError(error.message, where=where, hint=error.hint) from error.__cause__


def place_of(function: Any) -> str:
    """``file:line name`` of a function, as far as it can be known; the file relative to the current folder."""
    inner = _chain(function)[-1]
    code = getattr(run_by(inner), "__code__", None)
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    name = name.rsplit("<locals>.", 1)[-1]
    if code is None:
        return f"{getattr(inner, '__module__', '?')} {name}"
    return f"{short_path(code.co_filename)}:{code.co_firstlineno} {name}"


def run_by(value: Any) -> Any:
    """The function that runs when `value` is called: itself, or the ``__call__`` of its class."""
    if inspect.isroutine(value) or isinstance(value, type) or not callable(value):
        return value
    return type(value).__call__


def short_path(file: str) -> str:
    """A file relative to the current folder where it is inside of it."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file


def _understand(function: Callable[..., Any], where: str, *, batch: bool, codec: Codec) -> Handler:
    style = _style_of(function)
    payload, context = _parameters_of(function)
    annotation = _annotation_of(function, payload)
    if _is_context(annotation):
        raise ConfigError(
            f"its first parameter, {payload.name}, is annotated {text_of(annotation)}, but the payload comes first",
            hint=_SHAPE,
        )
    item = _item_of(annotation, payload.name) if batch else annotation
    if context is not None:
        _check_context(function, context, batch=batch)
    decoder = make_decoder(item, codec)
    return Handler(
        function=function,
        where=where,
        style=style,
        takes_context=context is not None,
        batch=batch,
        payload_type=text_of(item),
        state_type="" if context is None else _state_of(function, context),
        ignored=_ignored(function, batch=batch),
        returns_value=inspect.signature(function).return_annotation not in (None, "None"),
        decode=decoder.decode,
        decode_errors=decoder.errors,
    )


def _style_of(function: Callable[..., Any]) -> Style:
    if isinstance(function, type):
        raise ConfigError("a class is not a handler", hint="mark a function, or an object with __call__")
    if not callable(function):
        raise ConfigError("is not callable", hint=_SHAPE)
    for one in map(run_by, _chain(function)):
        if inspect.isasyncgenfunction(one) or inspect.isgeneratorfunction(one):
            raise ConfigError("is a generator: it would never run", hint="return or emit instead of yield")
        if inspect.iscoroutinefunction(one):
            # Also when only what a decorator wraps is async: calling the wrapper then gives the coroutine.
            return "async"
    return "sync"


def _chain(function: Any) -> list[Any]:
    """A function and what it wraps, outermost first."""
    found: list[Any] = []
    while function is not None and len(found) < 100:  # noqa: PLR2004 - a ring of wrappers ends somewhere
        found.append(function)
        function = getattr(function, "__wrapped__", None) or getattr(function, "func", None)
    return found


def _parameters_of(function: Callable[..., Any]) -> tuple[inspect.Parameter, inspect.Parameter | None]:
    """The payload's parameter and the context's, which may be left out."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError, NameError) as error:
        raise ConfigError(f"its signature cannot be read: {error}", hint=_SHAPE) from error
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    required = [one for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    if required:
        raise ConfigError(f"parameter {required[0].name} is keyword-only and nobody gives it", hint=_SHAPE)
    if not positional:
        varargs = any(one.kind is one.VAR_POSITIONAL for one in parameters)
        message = "takes *args: what it asks for cannot be seen" if varargs else "takes no parameter"
        raise ConfigError(message, hint="use functools.wraps in the decorator around it" if varargs else _SHAPE)
    surplus = [one for one in positional[2:] if one.default is one.empty]
    if surplus:
        raise ConfigError(f"takes {len(positional)} parameters; nobody gives {surplus[0].name}", hint=_SHAPE)
    return positional[0], positional[1] if len(positional) > 1 else None


def _annotation_of(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """A parameter's annotation, evaluated; ``Any`` without one."""
    if parameter.annotation is parameter.empty:
        return Any
    annotation = _evaluated(function, parameter.annotation)
    if annotation is _UNRESOLVED:
        raise ConfigError(
            f"the annotation of {parameter.name}, {parameter.annotation!r}, names what is not there at run time",
            hint="define it at the top of the module; do not import it under TYPE_CHECKING only",
        )
    return annotation


def _evaluated(function: Callable[..., Any], annotation: Any) -> Any:
    inner = run_by(_chain(function)[-1])

    class Holder:
        __annotations__ = {"it": annotation}

    try:
        hints = typing.get_type_hints(
            Holder, globalns=getattr(inner, "__globals__", {}), localns=_enclosed(inner), include_extras=True
        )
    except Exception:  # noqa: BLE001 - evaluating a user's text may raise anything
        return _UNRESOLVED
    return hints["it"]


def _enclosed(function: Any) -> dict[str, Any]:
    """Names of the enclosing function that `function` uses."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or not cells:
        return {}
    found = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _is_context(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Context | BatchContext)


def _check_context(function: Callable[..., Any], parameter: inspect.Parameter, *, batch: bool) -> None:
    if parameter.annotation is parameter.empty:
        return
    wanted = "BatchContext" if batch else "Context"
    annotation = _evaluated(function, parameter.annotation)
    if annotation is _UNRESOLVED:  # imported for the type checker only: its name tells
        text = str(parameter.annotation)
        if _CONTEXT_TEXT.fullmatch(text) and ("BatchContext" in text) == batch:
            return
    elif annotation is Any or _fits(annotation, batch=batch):
        return
    else:
        text = text_of(annotation)
    hint = f"annotate it {wanted}" if "Context" not in text else _context_hint(batch=batch)
    raise ConfigError(f"its second parameter, {parameter.name}, is annotated {text}, but it is the context", hint=hint)


def _state_of(function: Callable[..., Any], parameter: inspect.Parameter) -> str:
    """The state that a context's annotation promises."""
    annotation = _evaluated(function, parameter.annotation)
    for one in get_args(annotation) if _is_context(annotation) else ():
        if one is not Any and not isinstance(one, typing.TypeVar | TypeVar) and not without_none(one)[1]:
            return text_of(one)
    return ""


def _ignored(function: Callable[..., Any], *, batch: bool) -> str:
    """What a handler is annotated to return although it means nothing."""
    annotation = inspect.signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        return ""
    evaluated = _evaluated(function, annotation)
    return "" if evaluated is _UNRESOLVED or _has_meaning(evaluated, batch=batch) else text_of(evaluated)


def _has_meaning(annotation: Any, *, batch: bool) -> bool:
    """Whether whatever fits an annotation is an outcome (of one item, in a batch), or nobody can tell."""
    inner = bare(annotation)
    if inner in (None, NoneType, Any, object, typing.NoReturn, typing.Never):
        return True
    origin, arguments = get_origin(inner), get_args(inner)
    if origin in (typing.Union, UnionType):
        return all(_has_meaning(one, batch=batch) for one in arguments)
    if isinstance(origin, type) and issubclass(origin, Awaitable):  # Coroutine[Any, Any, T], Awaitable[T]
        return _has_meaning(arguments[-1], batch=batch)
    if batch and isinstance(origin, type) and issubclass(origin, Iterable):
        return all(one is Ellipsis or _has_meaning(one, batch=False) for one in arguments)
    if batch and inner in (list, tuple):
        return True
    kind = origin or inner
    return not isinstance(kind, type) or issubclass(kind, BaseException)


def _context_hint(*, batch: bool) -> str:
    if batch:
        return "batch is set: annotate it BatchContext"
    return "annotate it Context, or set batch to get batches"


def _fits(annotation: Any, *, batch: bool) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(BatchContext if batch else Context, origin)


def _item_of(annotation: Any, name: str) -> Any:
    """The item type of a batch handler's payload."""
    inner = bare(annotation)
    if inner is Any or inner is list:
        return Any
    origin = get_origin(inner)
    if isinstance(origin, type) and issubclass(list, origin):  # list[T], Sequence[T], Iterable[T]
        return get_args(inner)[0]
    raise ConfigError(
        f"batch is set, but its first parameter, {name}, is annotated {text_of(annotation)}", hint="annotate it list[T]"
    )
