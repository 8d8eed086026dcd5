"""Everything the user wrote, put together: modules imported, marks collected, plans made."""

import inspect
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from hexa_worker.config.mistakes import key_path, raise_all, suggest
from hexa_worker.config.model import Config
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.api import Middleware
from hexa_worker.subscriptions.clashes import check_clashes
from hexa_worker.subscriptions.collect import Marked, marked_in
from hexa_worker.subscriptions.event_types import share_sources
from hexa_worker.subscriptions.lifespans import lifespan_in, require_state
from hexa_worker.subscriptions.merge import make_plan
from hexa_worker.subscriptions.modules import import_named, named_function, put_first
from hexa_worker.subscriptions.outcome_hooks import outcome_hooks_in
from hexa_worker.subscriptions.plan import DISABLED, Loaded, OffPlan, Plan
from hexa_worker.subscriptions.scheduling import in_its_channel, scheduling
from hexa_worker.subscriptions.signature import place_of, run_by, short_path


def load_plans(config: Config, *, state_given: bool = False) -> Loaded:
    """Import the handler modules of `config` and put every subscription together.

    Its folder becomes the first place modules are looked for, in this process.

    Args:
        config: the loaded worker.toml.
        state_given: whoever runs them has a state for the handlers, so they need no lifespan.

    Raises:
        ConfigError: naming the place in worker.toml or in the code, and what to do; all mistakes of the
            subscriptions at once.
    """
    put_first(config.folder)
    loaded = plans_in(_import_modules(config, short_path(str(config.path))), config)
    if loaded.lifespan is None and not state_given:
        require_state(loaded.plans, config.folder)
    return loaded


def plans_in(modules: Sequence[ModuleType], config: Config) -> Loaded:
    """As `load_plans`, from modules that are imported already."""
    file = short_path(str(config.path))
    marked = list(marked_in(modules))
    mistakes = [*_strangers(config, marked, file), *_doubles(marked)]
    plans: list[Plan] = []
    off: list[OffPlan] = []
    for one in (in_its_channel(one, config) for one in marked):
        written = config.file.subscriptions.get(one.mark.action)
        try:
            named = written.middlewares if written is not None else ()
            place = f"{file}: {key_path(('subscriptions', one.mark.action, 'middlewares'))}"
            plan = make_plan(config, one, _middlewares(config, named, place))
        except ConfigError as error:
            mistakes.append(error)
            continue
        if written is None or written.enabled or plan.type is not None:
            plans.append(plan)
        else:
            off.append(OffPlan(plan, DISABLED))
    raise_all(file, mistakes)
    plans = share_sources(plans, config)
    _require_any(config, marked, plans, file)
    ticker, own = scheduling(config, plans)
    plans += own
    raise_all(file, check_clashes(plans))
    return Loaded(
        plans=tuple(sorted(plans, key=lambda plan: plan.action)),
        ticker=ticker,
        lifespan=lifespan_in(modules),
        outcome_hooks=outcome_hooks_in(modules),
        middlewares=_middlewares(config, config.file.worker.middlewares, f"{file}: worker.middlewares"),
        off=tuple(off),
    )


def _import_modules(config: Config, file: str) -> list[ModuleType]:
    where = f"{file}: worker.handlers"
    if not config.file.worker.handlers:
        raise ConfigError(
            "is missing", where=where, hint='a worker needs the modules of its handlers: handlers = ["handlers"]'
        )
    modules: list[ModuleType] = []
    for name in config.file.worker.handlers:
        modules.extend(module for module in import_named(name, config.folder, where) if module not in modules)
    return modules


def _require_any(config: Config, marked: Sequence[Marked], plans: Sequence[Plan], file: str) -> None:
    if plans:
        return
    if marked:
        raise ConfigError("every subscription is disabled", where=file, hint="set enabled = true for one of them")
    raise ConfigError(
        f"no handlers in {', '.join(config.file.worker.handlers)}",
        where=f"{file}: worker.handlers",
        hint='mark functions with @subscribe("channel")',
    )


def _strangers(config: Config, marked: Sequence[Marked], file: str) -> Iterable[ConfigError]:
    """Subscriptions in worker.toml that no handler was marked for."""
    known = [one.mark.action for one in marked]
    for action in config.file.subscriptions:
        if action not in known:
            yield ConfigError(
                "no handler has this action",
                where=f"{file}: {key_path(('subscriptions', action))}",
                hint=suggest(action, known, what="the handlers' actions are"),
            )


def _doubles(marked: Sequence[Marked]) -> Iterable[ConfigError]:
    """Actions that two handlers share."""
    first: dict[str, Marked] = {}
    for one in marked:
        other = first.setdefault(one.mark.action, one)
        if other is not one:
            yield ConfigError(
                f'a second handler with action "{one.mark.action}"; the first is {place_of(other.function)}',
                where=place_of(one.function),
                hint="give one of them another name with action=…",
            )


def _middlewares(config: Config, names: Sequence[str], where: str) -> tuple[Middleware, ...]:
    return tuple(_middleware(config, name, where) for name in names)


def _middleware(config: Config, name: str, where: str) -> Middleware:
    """The function that ``module:function`` names."""
    function = named_function(name, config.folder, where)
    check_middleware(function)
    return function  # type: ignore[no-any-return]  # a user's module is untyped from here


def check_middleware(function: Any) -> None:
    """Check that something can be called as a middleware.

    Raises:
        ConfigError: it cannot.
    """
    hint = "write: async def middleware(event, ctx, call_next): return await call_next(event, ctx)"
    if isinstance(function, type) or not inspect.iscoroutinefunction(run_by(function)):
        raise ConfigError("a middleware is an async function", where=place_of(function), hint=hint)
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError as error:
        raise ConfigError(f"cannot be called as a middleware: {error}", where=place_of(function), hint=hint) from None
