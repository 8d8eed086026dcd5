"""Modules in, no plans out: how every mistake is named."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from hexa_worker.config.load import load_config
from hexa_worker.errors import ConfigError, LifespanFailed
from hexa_worker.subscriptions.lifespans import telling
from hexa_worker.subscriptions.loader import load_plans
from tests.unit.loader_project import IN_PLACE, ONE, Project, in_project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with in_project(tmp_path) as one:
        yield one


# Mistakes in modules


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x = (\n", "h.py:3: module \"h\" cannot be imported: SyntaxError: '(' was never closed"),
        ("def f():\n    1 / 0\nf()\n", 'h.py:4: module "h" cannot be imported: ZeroDivisionError: division by zero'),
        ("import nowhere\n", "h.py:3: module \"h\" cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("from m import gone\n", "h.py:3: module \"h\" cannot be imported: ImportError: cannot import name 'gone'"),
        ("import sys; sys.exit(3)\n", 'h.py:3: module "h" cannot be imported: SystemExit: 3'),
        ("raise Exception\n", 'h.py:3: module "h" cannot be imported: Exception'),
        ("import m2\n", 'm2.py:3: module "h" cannot be imported: NameError'),
    ],
)
def test_an_error_in_a_users_module_is_named_by_its_line(project: Project, source: str, error: str) -> None:
    project.write("m.py", "")
    project.write("m2.py", "undefined\n")
    project.write("h.py", source)
    assert project.error().startswith(error)


def test_a_worker_without_handlers_is_told_what_it_needs(project: Project) -> None:
    (project.folder / "worker.toml").write_text('worker.name = "w"\nbroker.driver = "memory"\n')
    with pytest.raises(ConfigError, match=r"worker\.handlers: is missing \(a worker needs the modules of its handlers"):
        load_plans(load_config(project.folder / "worker.toml"))


@pytest.mark.parametrize(
    ("handlers", "error"),
    [
        ("'handlers.order'", 'there is no module "handlers.order" (did you mean handlers.orders?)'),
        ("'zzz'", 'there is no module "zzz" (in . there are handlers, handlers.orders)'),
        ("'handlers/orders.py'", '"handlers/orders.py" is not a module name (did you mean handlers.orders?)'),
        ("'a b'", '"a b" is not a module name (write it as in an import)'),
        ("'handlers.orders.*'", '"handlers.orders" is a module, not a package (write "handlers.orders")'),
        ("'handlers'", "no handlers in handlers (mark functions with @subscribe"),
    ],
)
def test_a_module_that_is_not_there_is_named_with_what_is(project: Project, handlers: str, error: str) -> None:
    project.write("handlers/__init__.py", "")
    project.write("handlers/orders.py", ONE)
    project.toml("", handlers=handlers)
    assert project.error().startswith(f"worker.toml: worker.handlers: {error}")


# Mistakes about types

TYPED = """
@subscribe("work", type="a", action="do")
async def do(e: dict, ctx: Context) -> None: ...
"""
TWO = (
    TYPED
    + """
@subscribe("work", type="b"{})
async def other(e: dict) -> None: ...
"""
)
WORK = "[channels.work]\ntype = 'header:type'\n"


@pytest.mark.parametrize(
    ("source", "toml", "error"),
    [
        (
            TYPED,
            "",
            'the type of an event of work stands (write type = "header:NAME" or "payload:FIELD" under [channels.work])',
        ),
        (
            TYPED,
            "[channels.work]\ntype = 'type'",
            'worker.toml: channels.work.type: must be "header:NAME" or "payload:FIELD", not "type"',
        ),
        (TYPED, "[channels.work]", "worker.toml: channels.work.type: is missing"),
        (
            TYPED,
            WORK + "unknown = 'skip'",
            'worker.toml: channels.work.unknown: must be "dead_letter" or "drop", not "skip"',
        ),
        (
            TYPED,
            WORK + "[channels.wrok]\ntype = 'header:x'",
            "worker.toml: channels.wrok: no handler is for a type of this channel (did you mean work?)",
        ),
        (
            ONE,
            WORK,
            'worker.toml: channels.work: no handler is for a type of this channel (write @subscribe("channel"',
        ),
        (
            TWO.replace('"b"', '"a"').format(""),
            WORK,
            'h.py:7 other: a second handler for type "a" of work; the first is do (one type has one handler',
        ),
        (TYPED.replace('"a"', "3"), WORK, 'h.py:4 do: type: must be the name of a type, not 3 (write type="…")'),
        (
            TYPED.replace('"work"', '"work", "more"'),
            WORK,
            "h.py:4 do: do is for a type, but reads several channels (a handler of a type reads one channel",
        ),
        (
            TYPED,
            WORK + "[subscriptions.do]\ngroup = 'g'",
            "worker.toml: channels.work: subscriptions.do says group, which all types of its channel share",
        ),
        (
            TYPED,
            WORK + "[subscriptions.do]\nenabled = false",
            "worker.toml: channels.work: subscriptions.do says enabled, which all types of its channel share",
        ),
        (
            TWO.format(', start="latest"').replace('action="do"', 'action="do", start="earliest"'),
            WORK,
            "h.py:7 other: start is latest for other and earliest for do (the types of a channel are read together",
        ),
        (
            TYPED.replace("e: dict", "e: bytes").replace('"do"', '"do", codec="raw"'),
            "[channels.work]\ntype = 'payload:kind'",
            'worker.toml: channels.work.type: names a field, but the codec is "raw" (use a header)',
        ),
    ],
)
def test_a_mistake_about_types_names_its_place(project: Project, source: str, toml: str, error: str) -> None:
    project.write("h.py", source)
    project.toml(toml)
    assert error in project.error()


# Mistakes in subscriptions


@pytest.mark.parametrize(
    ("source", "toml", "error"),
    [
        (ONE, "[subscriptions.doo]", "worker.toml: subscriptions.doo: no handler has this action (did you mean do?)"),
        (
            ONE,
            "[subscriptions.zzz]",
            "worker.toml: subscriptions.zzz: no handler has this action (the handlers' actions are do)",
        ),
        (
            ONE.replace('"work", ', ""),
            "",
            'do has no channel (write @subscribe("channel"), or channel = "…" under [subscriptions.do])',
        ),
        (ONE, "[subscriptions.do]\nenabled = false", "worker.toml: every subscription is disabled"),
        (ONE + ONE, "", None),
        (
            ONE + ONE.replace("def do", "def redo"),
            "",
            'h.py:7 redo: a second handler with action "do"; the first is h.py:4 do (give one of them another name',
        ),
        (
            ONE.replace('"do"', '"d o"'),
            "",
            'h.py:4 do: action: must be a name of up to 200 letters, digits, dots, dashes and underscores, not "d o"',
        ),
        (
            ONE.replace('"do"', '"do", concurrency=0'),
            "",
            "h.py:4 do: concurrency: must be an integer from 1 to 10000, not 0",
        ),
        (
            ONE.replace('"do"', '"do", order_by="keys"'),
            "",
            'h.py:4 do: order_by: must be "channel", "key" or "none", not "keys" (did you',
        ),
        (
            ONE.replace('"do"', '"do", pattern="x"'),
            "",
            "h.py:4 do: has channels and pattern (channel, channels and pattern",
        ),
        (ONE.replace('"do"', '"do", batch_wait_s=1'), "", "h.py:4 do: batch_wait_s without batch"),
        (
            ONE.replace('"do"', '"do", retry=3'),
            "",
            "h.py:4 do: retry: must be a Retries, not 3 (write retry=Retries(maximum=…))",
        ),
        (
            ONE.replace('"do"', '"do", retry=Retries(maximum=-1)'),
            "",
            "h.py:4 do: retry.maximum: must be an integer from 0 to 1000, not -1",
        ),
        (
            ONE.replace('"do"', '"do", retry=Retries(initial_s="1s")'),
            "",
            'h.py:4 do: retry.initial_s: must be a number of at least 0, not "1s"',
        ),
        (
            ONE.replace('"do"', '"do", retry=Retries(order="key")'),
            "",
            'h.py:4 do: retry.order: must be "free" while order_by is "none", not "key" (without',
        ),
        (
            ONE.replace('"do"', '"do", retry=Retries(maximum_waiting_keys=5)'),
            "[subscriptions.do.retry]\nmaximum_retries = 3",
            'h.py:4 do: retry.maximum_waiting_keys: maximum_waiting_keys without order = "key"',
        ),
        (
            ONE.replace('"do"', '"do", idempotency_key="payload:id"').replace("e: dict", "e: bytes"),
            "[subscriptions.do]\ncodec = 'raw'",
            'h.py:4 do: idempotency_key names a field, but the codec is "raw" (use a header)',
        ),
        (
            ONE.replace('"do"', '"do", idempotency_key="id"'),
            "",
            'h.py:4 do: idempotency_key: must be "header:NAME" or "payload:FIELD", not "id"',
        ),
        (
            ONE.replace('"do"', '"do", drop_on=KeyError'),
            "",
            "h.py:4 do: drop_on: must be a tuple of classes, not KeyError (write drop_on=(ValueError,))",
        ),
        (
            ONE.replace('"do"', '"do", retry_on=(dict,)'),
            "",
            "h.py:4 do: retry_on: dict is no class of errors (name what a handler raises)",
        ),
        (
            ONE.replace('"do"', '"do", retry_on=("ValueError",)'),
            "",
            'h.py:4 do: retry_on: "ValueError" is no class of errors (name what a handler raises)',
        ),
        (
            "from hexa_worker import Drop\n" + ONE.replace('"do"', '"do", dead_letter_on=(Drop,)'),
            "",
            "h.py:5 do: dead_letter_on: Drop is a verdict: it says itself what is done (name what a handler raises)",
        ),
        (
            ONE.replace('"do"', '"do", dead_letter_on=(KeyError,)'),
            "[subscriptions.do]\ndrop_on = ['KeyError']",
            "worker.toml: subscriptions.do.drop_on: KeyError is in dead_letter_on as well (one class means one thing",
        ),
        (
            ONE,
            "[subscriptions.do]\ndrop_on = ['KeyErorr']",
            'worker.toml: subscriptions.do.drop_on: "builtins" has no "KeyErorr" (did you mean KeyError?)',
        ),
        (
            ONE,
            "[subscriptions.do]\ndrop_on = ['h.Missing']",
            'worker.toml: subscriptions.do.drop_on: "h" has no "Missing"',
        ),
        (
            ONE,
            "[subscriptions.do]\ndrop_on = ['hh.Missing']",
            'worker.toml: subscriptions.do.drop_on: there is no module "hh"',
        ),
        (
            ONE,
            "[subscriptions.do]\ndrop_on = ['a b']",
            'worker.toml: subscriptions.do.drop_on[0]: must be the dotted name of a class, not "a b"',
        ),
        (
            ONE.replace('"do"', '"do", start="first"'),
            "",
            'h.py:4 do: start: must be "earliest" or "latest", not "first"',
        ),
        (
            ONE,
            "[subscriptions.do]\nbatch_wait_s = 1",
            "worker.toml: subscriptions.do.batch_wait_s: batch_wait_s without batch",
        ),
        (
            ONE,
            "[subscriptions.do]\nthreads = 1",
            "worker.toml: subscriptions.do.threads: threads, but the handler is async",
        ),
        (
            ONE,
            '[subscriptions.do.retry]\norder = "key"',
            'worker.toml: subscriptions.do.retry.order: must be "free" while order_by is "none", not "key" (without',
        ),
        (
            ONE.replace('"do"', '"do", batch=5, order_by="key"').replace(
                "e: dict, ctx: Context", "e: list[dict], ctx: BatchContext"
            ),
            '[subscriptions.do.retry]\norder = "key"',
            'worker.toml: subscriptions.do.retry.order: must be "free" for a batch handler, not "key" (events of one',
        ),
        (
            ONE,
            "[subscriptions.do.retry]\nmaximum_waiting_keys = 5",
            'worker.toml: subscriptions.do.retry.maximum_waiting_keys: maximum_waiting_keys without order = "key"',
        ),
        (
            ONE,
            IN_PLACE.replace("\n", "\nmailbox = 50\n", 1) + "maximum_waiting_keys = 50",
            "worker.toml: subscriptions.do.retry.maximum_waiting_keys: must be less than mailbox (50), not 50 (what",
        ),
        (
            ONE,
            '[subscriptions.do.retry]\norder = "keys"',
            'worker.toml: subscriptions.do.retry.order: must be "free" or "key", not "keys"',
        ),
        (
            ONE,
            IN_PLACE + "maximum_waiting_keys = 0",
            "worker.toml: subscriptions.do.retry.maximum_waiting_keys: must be",
        ),
        (ONE, IN_PLACE.replace('"key"', '"channel"', 1), None),
        (
            ONE,
            "[subscriptions.do]\nbatch = 5",
            "h.py:4 do: batch is set, but its first parameter, e, is annotated dict",
        ),
        (ONE, "[subscriptions.do]\ncodec = 'raw'", 'h.py:4 do: codec "raw" hands over bytes or str, not dict'),
        (
            ONE + "@subscribe\nasync def bare(e: dict): ...\n",
            "",
            'h.py:6: module "h" cannot be imported: ConfigError: @subscribe without a channel: bare',
        ),
        ("class A:\n    @subscribe('x')\n    def f(self, e): ...\n", "", "h.py:4 A.f: a method is not a handler"),
        (
            "class A:\n    @staticmethod\n    @subscribe('x')\n    def f(e): ...\n",
            "",
            "h.py:4 A.f: a method is not a handler",
        ),
        (
            ONE + "@lifespan\nasync def a():\n    yield\n@lifespan\nasync def b(x):\n    yield\n",
            "",
            "h.py:9 b: a lifespan takes no parameters",
        ),
        (ONE + "@lifespan\nasync def a(x):\n    yield\n", "", "h.py:6 a: a lifespan takes no parameters"),
        (ONE + "@lifespan\nasync def a():\n    return 1\n", "", "h.py:6 a: a lifespan is an async generator function"),
        (ONE, "middlewares = ['m']", 'worker.toml: worker.middlewares: "m" is not of the form "module:function"'),
        (ONE, "middlewares = ['mm:f']", 'worker.toml: worker.middlewares: there is no module "mm"'),
        (ONE, "middlewares = ['h:doo']", 'worker.toml: worker.middlewares: module "h" has no "doo" (did you mean do?)'),
        (ONE, "middlewares = ['h:do']", "h.py:4 do: cannot be called as a middleware: too many positional arguments"),
        (ONE, "middlewares = ['h:lifespan']", "a middleware is an async function (write: async def middleware("),
        (
            ONE,
            "[subscriptions.do]\nmiddlewares = ['x']",
            'worker.toml: subscriptions.do.middlewares: "x" is not of the form',
        ),
    ],
)
def test_a_mistake_in_a_subscription_names_its_place(
    project: Project, source: str, toml: str, error: str | None
) -> None:
    project.write("h.py", source)
    project.toml(toml)
    if error is None:
        assert project.plan().action == "do"
    else:
        assert error in project.error()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (
            "order_by = 'key'\npulsar.type = 'shared'",
            'pulsar.type: "shared" does not keep order_by = "key" (leave it out',
        ),
        (
            "order_by = 'channel'\npulsar.type = 'key_shared'",
            'pulsar.type: "key_shared" does not keep order_by = "chan',
        ),
        ("order_by = 'key'\npulsar.type = 'failover'", None),
        ("pulsar.type = 'shared'", None),
        ("pulsar.read_compacted = true", "pulsar.read_compacted: needs one reader of each channel (set type = "),
        ("pulsar.read_compacted = true\npulsar.type = 'exclusive'", None),
        ("pulsar.read_compacted = true\norder_by = 'channel'", None),
    ],
)
def test_a_type_of_pulsar_must_fit_the_order_that_is_asked_for(project: Project, said: str, error: str | None) -> None:
    project.write("h.py", ONE)
    project.toml(f"[broker]\ndriver = 'pulsar'\n[subscriptions.do]\n{said}")
    if error is None:
        assert project.plan().action == "do"
    else:
        assert error in project.error()


def test_all_mistakes_of_the_subscriptions_come_at_once(project: Project) -> None:
    project.write("h.py", "@subscribe('x')\nasync def a(): ...\n@subscribe('x')\nasync def b(e: complex): ...\n")
    project.toml("[subscriptions.c]")
    text = project.error()
    assert text.startswith("worker.toml: 3 mistakes\n")
    assert all(place in text for place in ("subscriptions.c: ", "h.py:3 a: ", "h.py:5 b: "))


# Clashes

PULSAR = "[broker]\ndriver = 'pulsar'\n[subscriptions]\n"
TWO = """
@subscribe("x")
async def a(e: Any) -> None: ...
@subscribe("x")
async def b(e: Any) -> None: ...
"""


@pytest.mark.parametrize(
    ("toml", "error"),
    [
        ("", None),
        ("[subscriptions.a]\ngroup = 'b'", "b and a read x in one group, b: each would get a part of it"),
        ("[subscriptions.a]\ngroup = 'b'\nchannel = 'y'", "b and a share retry channels: both are named after b"),
        ("[subscriptions.a]\ngroup = 'b'\nchannel = 'y'\nretry_channel = 'c'", None),
        ("[subscriptions.a]\nchannel = 'b.retry.1'", "a reads b.retry.1, which belongs to the retries of b"),
        ("[subscriptions.a]\nchannel = 'b.dlq'", None),
        ("[subscriptions.a]\nchannel = 'a.dlq'", "a reads a.dlq, which belongs to the retries of a"),
        ("[subscriptions.a]\nchannel = 'b.retry.5'", None),
        ("[subscriptions.a]\npattern = '.*'", "the pattern of a matches a.retry.1, which belongs to a"),
        (r"[subscriptions.a]" + "\npattern = '(?!.*\\.(retry\\.\\d+|dlq)$).*'", None),
        (PULSAR + "a.pulsar.subscription = 'b'", "b and a read x in one group, b: each would get a part of it"),
        (PULSAR + "a.group = 'b'\na.retry_channel = 'c'\na.pulsar.subscription = 'a'", None),
    ],
)
def test_subscriptions_that_disturb_each_other_are_refused(project: Project, toml: str, error: str | None) -> None:
    project.write("h.py", TWO)
    project.toml(toml)
    if error is None:
        assert len(project.load().plans) == 2
    else:
        assert error in project.error()


# Channels


@pytest.mark.parametrize(
    ("driver", "channel", "problem"),
    [
        ("kafka", "orders created", "a topic is made of ASCII letters"),
        ("kafka", "größe", "a topic is made of ASCII letters"),
        ("kafka", "..", "a topic is made of ASCII letters"),
        ("kafka", "x" * 250, "at most 249 letters"),
        ("nats", "orders.*", "a subject is made of tokens"),
        ("nats", "orders..created", "a subject is made of tokens"),
        ("nats", "$JS.x", "a subject is made of tokens"),
        ("nats", "x" * 1001, "at most 1000 bytes"),
        ("pulsar", "orders/created", "no '/'"),
        ("pulsar", "orders-partition-1", "not a partition's name"),
        ("pulsar", "persistent://a/b", "is not a topic"),
        ("kafka", "orders.created_2-x", None),
        ("nats", "größe", None),
        ("pulsar", "persistent://a/b/c", None),
        ("embedded", "anything / at all", None),
    ],
)
def test_a_channel_that_the_broker_could_not_have_is_refused(
    project: Project, driver: str, channel: str, problem: str | None
) -> None:
    url = 'url = "pulsar://h:1"' if driver == "pulsar" else "" if driver == "embedded" else 'servers = ["h:1"]'
    broker = f'[broker]\ndriver = "{driver}"\n{url}\n'
    project.write("h.py", f'@subscribe("{channel}", action="do")\nasync def do(payload: Any) -> None: ...\n')
    project.toml(broker)
    if problem is None:
        assert project.plan().channels == (channel,)
        return
    told = project.error()
    assert told.startswith("h.py:3 do: ")
    assert problem in told
    project.toml(f'{broker}[subscriptions.do]\nchannel = "{channel}"\n')
    assert project.error().startswith("worker.toml: subscriptions.do.channel: ")


def test_a_name_of_retries_that_nats_could_not_have_is_refused(project: Project) -> None:
    project.write("h.py", '@subscribe("work", action="do")\nasync def do(payload: Any) -> None: ...\n')
    project.toml('[broker]\ndriver = "nats"\nservers = ["h:1"]\n[subscriptions.do]\nretry_channel = "a..b"\n')
    assert project.error().startswith("worker.toml: subscriptions.do.retry_channel: 'a..b.dlq' cannot be a channel")


# Lifespans


POOL = "class Pool: ...\n"
RESOURCES = POOL + "@lifespan\nasync def resources():\n    yield Pool()\n"
WITH_POOL = """
from b import Pool
@subscribe("work", action="do")
async def do(payload: Any, ctx: Context[{}]) -> None: ...
"""


def test_a_lifespan_in_a_module_that_is_not_named_is_found(project: Project) -> None:
    project.write("b.py", RESOURCES)
    project.write("h.py", WITH_POOL.format("Any"))
    assert project.error() == (
        'b.py:4 resources: a lifespan that nobody enters, in module "b" '
        "(name its module under worker.handlers, or import the function into one that is named)"
    )
    project.toml("", handlers="'h', 'b'")
    assert project.load().lifespan is not None


def test_a_handler_that_asks_for_a_state_needs_a_lifespan(project: Project) -> None:
    project.write("b.py", POOL)
    project.write("h.py", WITH_POOL.format("Pool"))
    assert project.error().startswith("h.py:5 do: asks for Context[Pool], but there is no lifespan")
    load_plans(load_config(project.folder / "worker.toml", {}), state_given=True)


@pytest.mark.parametrize("state", ["Any", "None", "Pool | None"])
def test_a_handler_that_can_do_without_a_state_needs_no_lifespan(project: Project, state: str) -> None:
    project.write("b.py", POOL)
    project.write("h.py", WITH_POOL.format(state))
    assert project.load().lifespan is None


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (OSError("no database"), LifespanFailed, "the lifespan raised OSError: no database (tried again"),
        *(
            (mistake("pol"), ConfigError, f"the lifespan raised {mistake.__name__}: pol, at test_loader_mistakes.py:")
            for mistake in (NameError, ImportError, TypeError, AttributeError)
        ),
        (ConfigError("no license"), ConfigError, "no license"),
        (None, ConfigError, "the lifespan ended without a yield (async def with one yield)"),
    ],
)
def test_what_a_lifespan_raises_is_told_with_its_place(raised: Exception | None, kind: type, told: str) -> None:
    async def resources() -> AsyncIterator[None]:
        if raised is not None:
            raise raised
        if raised is not None:
            yield

    async def enter() -> None:
        async with telling(asynccontextmanager(resources))():
            raise AssertionError

    with pytest.raises(kind) as caught:
        anyio.run(enter)
    assert told in str(caught.value)
    assert ("resources" in str(caught.value)) == (told != "no license")


def test_what_follows_the_yield_of_a_lifespan_still_runs() -> None:
    said: list[object] = []

    async def resources() -> AsyncIterator[int]:
        yield 7
        said.append("left")

    async def enter() -> None:
        async with telling(asynccontextmanager(resources))() as state:
            said.append(state)

    anyio.run(enter)
    assert said == [7, "left"]
