"""A function is understood when the worker starts, or refused with its place and a way out."""

import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, NoReturn

import msgspec
import pytest

from hexa_worker import Ack, BatchContext, BatchResult, Context, Result, Retry, subscribe
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.signature import place_of, understand
from tests.unit import signature_samples as samples


class Order(msgspec.Struct):
    id: int


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def around(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return around


def plainly_decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def around(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return around


def carelessly_decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    async def around(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return around


async def full(order: Order, ctx: Context[Any]) -> None: ...
async def lean(order: Order) -> None: ...
def plain(order: Order, ctx: Context[Any]) -> None: ...
async def bare(order, ctx): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - what an untyped handler looks like
async def optional(order: Order | None, ctx: Context[Any]) -> None: ...
async def many(orders: list[Order], ctx: BatchContext[Any]) -> None: ...
async def listed(orders: list[Order], ctx: Context[Any]) -> None: ...
async def sequence(orders: Sequence[Order]) -> None: ...
async def with_default(order: Order, ctx: Context[Any], limit: int = 3, *, flag: bool = False) -> None: ...


class Callee:
    async def __call__(self, order: Order, ctx: Context[Any]) -> None: ...


class PlainCallee:
    def __call__(self, order: Order) -> None: ...


@pytest.mark.parametrize(
    ("function", "style", "takes_context", "payload_type"),
    [
        (full, "async", True, "Order"),
        (lean, "async", False, "Order"),
        (plain, "sync", True, "Order"),
        (bare, "async", True, "Any"),
        (optional, "async", True, "Order | None"),
        (listed, "async", True, "list[Order]"),
        (with_default, "async", True, "Order"),
        (Callee(), "async", True, "Order"),
        (PlainCallee(), "sync", False, "Order"),
        (decorated(full), "async", True, "Order"),
        (plainly_decorated(full), "async", True, "Order"),
        (plainly_decorated(plain), "sync", True, "Order"),
        (functools.partial(with_default, limit=4), "async", True, "Order"),
        (functools.partial(full), "async", True, "Order"),
        (functools.partial(Callee()), "async", True, "Order"),
        (samples.plain, "async", True, "Order"),
        (samples.optional, "async", True, "Order | None"),
        (samples.context_for_the_checker_only, "async", True, "Order"),
        (samples.ghost_return, "async", False, "Order"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_handler_is_understood(
    function: Callable[..., Any], style: str, takes_context: bool, payload_type: str
) -> None:
    handler = understand(function)
    assert handler.function is function
    assert (handler.style, handler.takes_context, handler.payload_type) == (style, takes_context, payload_type)
    assert handler.batch is False


def test_the_decoder_makes_what_the_annotation_says() -> None:
    assert understand(samples.plain).decode(b'{"id":1}') == samples.Order(1)
    assert understand(full).decode(b'{"id":1}') == Order(1)
    assert understand(optional).decode(b"") is None


@pytest.mark.parametrize("function", [many, samples.batch, sequence], ids=lambda one: one.__name__)
def test_a_batch_handler_decodes_items(function: Callable[..., Any]) -> None:
    handler = understand(function, batch=True)
    assert (handler.batch, handler.payload_type) == (True, "Order")
    assert handler.decode(b'{"id":1}').id == 1


def test_types_of_an_enclosing_function_are_found() -> None:
    class Local(msgspec.Struct):
        id: int

    async def handler(order: "Local") -> Any:
        return Local(order.id)

    assert understand(handler).payload_type == "Local"


def test_a_place_is_file_line_and_name() -> None:
    assert re.fullmatch(r"tests/unit/test_signature\.py:\d+ full", place_of(full))
    assert place_of(decorated(full)) == place_of(full)
    assert place_of(functools.partial(full)) == place_of(full)
    assert re.fullmatch(r".*test_signature\.py:\d+ Callee", place_of(Callee()))


# Mistakes


async def nothing() -> None: ...
async def three(a: int, ctx: Context[Any], c: int) -> None: ...
async def keyword_only(a: int, *, ctx: Context[Any]) -> None: ...
async def only_context(ctx: Context[Any]) -> None: ...
async def swapped(ctx: Context[Any], order: Order) -> None: ...
async def wrong_context(order: Order, ctx: int) -> None: ...
async def batch_context(order: Order, ctx: BatchContext[Any]) -> None: ...
async def undecodable(order: complex) -> None: ...
async def undecodable_inside(order: dict[str, Callable[..., Any]]) -> None: ...
async def missing_name(order: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def generator(order: Order) -> Any:
    yield order


def plain_generator(order: Order) -> Any:
    yield order


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (nothing, "takes no parameter (a handler takes (payload) or (payload, ctx))"),
        (three, "takes 3 parameters; nobody gives c"),
        (keyword_only, "parameter ctx is keyword-only and nobody gives it"),
        (only_context, "its first parameter, ctx, is annotated Context[Any], but the payload comes first"),
        (swapped, "its first parameter, ctx, is annotated Context[Any], but the payload comes first"),
        (wrong_context, "its second parameter, ctx, is annotated int, but it is the context (annotate it Context)"),
        (batch_context, "is annotated BatchContext[Any], but it is the context (annotate it Context, or set batch"),
        (undecodable, "complex cannot be decoded: nobody knows how to make a complex (use a msgspec Struct,"),
        (undecodable_inside, "cannot be decoded: nobody knows how to make a Callable"),
        (missing_name, "the annotation of order, 'Nowhere', names what is not there at run time (define it at the top"),
        (samples.ghost, "the annotation of order, 'Ghost', names what is not there at run time"),
        (samples.strange_context, "its second parameter, ctx, is annotated Ghost, but it is the context"),
        (generator, "is a generator: it would never run (return or emit instead of yield)"),
        (plain_generator, "is a generator: it would never run"),
        (Callee, "a class is not a handler (mark a function, or an object with __call__)"),
        (carelessly_decorated(full), "takes *args: what it asks for cannot be seen (use functools.wraps"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_registration_mistake_names_place_and_way_out(function: Callable[..., Any], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        understand(function)
    assert str(caught.value).startswith(f"{place_of(function)}: ")
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lean, "batch is set, but its first parameter, order, is annotated Order (annotate it list[T])"),
        (optional, "batch is set, but its first parameter, order, is annotated Order | None"),
        (listed, "is annotated Context[Any], but it is the context (batch is set: annotate it BatchContext)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_batch_handler_takes_a_list(function: Callable[..., Any], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        understand(function, batch=True)
    assert error in str(caught.value)


def test_annotated_and_iterable_items_are_items() -> None:
    async def annotated(orders: Annotated[Iterable[Order], "x"]) -> None: ...

    assert understand(annotated, batch=True).payload_type == "Order"


def test_a_raw_handler_with_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match='codec "raw" hands over bytes or str, not Order'):
        understand(full, codec="raw")


# The decorator


def test_the_decorator_returns_the_function_itself() -> None:
    async def handler(order: Order) -> None: ...

    assert subscribe("a", "b", action="x")(handler) is handler


def test_what_has_no_name_needs_an_action() -> None:
    with pytest.raises(ConfigError, match=r"has no name \(give one: @subscribe"):
        subscribe("a")(functools.partial(lean))
    subscribe("a", action="x")(functools.partial(lean))


def test_what_cannot_be_marked_says_so() -> None:
    with pytest.raises(ConfigError, match=r"cannot be marked \(mark a function of a module\)"):
        subscribe("a")(Callee().__call__)


@pytest.mark.parametrize(
    ("annotation", "batch", "ignored"),
    [
        (None, False, ""),
        (Result, False, ""),
        (Ack | Retry | None, False, ""),
        (NoReturn, False, ""),
        (Any, False, ""),
        ("NotThere", False, ""),
        (float, False, "float"),
        (dict[str, int], False, "dict[str, int]"),
        ("int | None", False, "int | None"),
        (Ack | str, False, "Ack | str"),
        (Awaitable[int], False, "Awaitable[int]"),
        (Awaitable[None], False, ""),
        (BatchResult, True, ""),
        (list[Ack | Exception | None], True, ""),
        (list[int], True, "list[int]"),
        (int, True, "int"),
    ],
    ids=str,
)
def test_a_result_that_nobody_gets_is_known_by_its_annotation(annotation: Any, *, batch: bool, ignored: str) -> None:
    async def handle(payload: list[Any]) -> None: ...

    handle.__annotations__["return"] = annotation
    assert understand(handle, batch=batch).ignored == ignored
    del handle.__annotations__["return"]
    assert understand(handle, batch=batch).ignored == ""
