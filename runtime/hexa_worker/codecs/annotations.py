"""Looking into annotations. Optional libraries are never imported: whose models are used, is imported already."""

import sys
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin


def bare(annotation: Any) -> Any:
    """The annotation without ``Annotated``, ``NewType`` and ``type X = …`` around it."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType" and hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


def without_none(annotation: Any) -> tuple[Any, bool]:
    """The annotation less None, and whether it admitted None. Only unions are looked into."""
    inner = bare(annotation)
    if get_origin(inner) not in (Union, UnionType):
        return annotation, inner in (None, NoneType)
    args = get_args(inner)
    rest = tuple(one for one in args if one is not NoneType)
    return (Union[rest] if len(rest) < len(args) else annotation), len(rest) < len(args)  # noqa: UP007 - built at run time


def parts(annotation: Any) -> list[Any]:
    """The annotation and everything it is made of."""
    found, todo = [], [annotation]
    while todo:
        one = bare(todo.pop())
        found.append(one)
        todo.extend(arg for arg in get_args(one) if not isinstance(arg, str | int | bytes))
        origin = get_origin(one)
        if origin is not None:
            found.append(origin)
    return found


def is_pydantic(one: Any) -> bool:
    """Whether it is a pydantic model or a pydantic dataclass."""
    return isinstance(one, type) and "pydantic" in sys.modules and hasattr(one, "__pydantic_validator__")


def is_protobuf(one: Any) -> bool:
    """Whether it is a generated protobuf message class."""
    module = sys.modules.get("google.protobuf.message")
    return module is not None and isinstance(one, type) and issubclass(one, module.Message)


def text_of(annotation: Any) -> str:
    """The annotation as a reader would write it."""
    if annotation is None or annotation is NoneType:
        return "None"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__qualname__.removeprefix("<locals>.").rsplit("<locals>.", 1)[-1]
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(text_of(one) for one in get_args(annotation))
    args = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return text_of(args[0])
    if args and isinstance(origin, type):
        return f"{text_of(origin)}[{', '.join(text_of(one) for one in args)}]"
    return str(annotation).removeprefix("typing.")
