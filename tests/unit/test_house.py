"""How large the parts of the package may become, and which words and names belong where.

Each list names what is over a limit, with the reason. Who mends an entry strikes it: one that is no longer needed
fails too. Lines of code are those that hold any: no blanks, comments and docstrings.
"""

import ast
import io
import re
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import hexa_worker

ROOT = Path(__file__).parents[2]
PACKAGE = Path(hexa_worker.__file__).parent
FUNCTION_LINES, MODULE_LINES, CLASS_METHODS, CLASS_FIELDS = 50, 400, 25, 15
Definition = ast.FunctionDef | ast.AsyncFunctionDef

LONG_FUNCTIONS = {
    "actors/lane.py Lane._consume": "the loop that every message passes: a call more in it costs more than it explains",
}
LONG_MODULES: dict[str, str] = {}
MANY_METHODS = {
    "Admin": "one method per request to Pulsar's admin API",
    "Context": "one property per thing that a handler may ask",
    "ConformanceContext": "the vocabulary of the conformance suite",
    "Deduplicator": "the life of a claim, from receiving to settling, around one state",
    "GroupConsumer": "aiokafka's consumer with our rules of assignment and commit",
    "KafkaSource": "the protocol of a source, and partitions that come and go",
    "NatsConnection": "requests, publishing and the states of a connection are answers to the same callbacks",
    "NatsSource": "the protocol of a source over consumers that are recreated",
    "Pool": "the parent's answers to all that its children and its operator do",
    "PostgresOutboxStore": "the protocol of an outbox's store, each method with its transaction",
    "PullConsumer": "pulls, frames, claims and their end are one consumer's, around one connection",
    "PulsarDriver": "the protocol of a driver, and what it makes, keeps and moves for its sources",
    "Relay": "the turns of a relay: order, refusals, parking, handing over",
    "SqliteStore": "the protocol of an outbox's store, each method with its transaction",
    "SubscriptionLog": "one method per line that it writes",
}
MANY_FIELDS = {
    "Capabilities": "one field per thing that drivers differ in",
    "ConsumerThread": "what the two threads around a Pulsar consumer share",
    "Counters": "one field per metric",
    "Deduplicator": "as its methods",
    "GroupConsumer": "as its methods",
    "Harness": "its options, and what handlers did",
    "Kafka": "one field per key of worker.toml",
    "KafkaSource": "as its methods",
    "LogLease": "a row of the table",
    "Mailbox": "counts of what is queued, running and unsettled, read for every batch",
    "Nats": "one field per key of worker.toml",
    "NatsConnection": "as its methods",
    "NatsSource": "as its methods",
    "OrderedConsumer": "order, rewinding and handing over are one state",
    "Mark": "one field per argument of the decorator",
    "Plan": "one field per setting of a subscription",
    "Pool": "as its methods",
    "Pulsar": "one field per key of worker.toml",
    "PulsarSource": "the protocol of a source over threads of the client",
    "PullConsumer": "as its methods",
    "Recorder": "counts of what is written, dropped and late, for its report",
    "Relay": "as its methods",
    "Settler": "the batch, what is under way and what is parked are one state",
    "Slot": "all that is known of one child",
    "Statements": "one field per statement",
    "StoredDeadLetter": "one field per thing that is shown of a dead letter",
    "Subscription": "one field per key of worker.toml",
    "SubscriptionStatus": "one field per thing that is shown of a subscription",
    "Worker": "one field per part of a worker",
    "WorkerServices": "one field per thing that all workers of a process share",
}
COMPLEX_FUNCTIONS = {
    "actors/lane.py C901": "the loop that every message passes: a call more in it costs more than it explains",
}
SAME_NAMES = {
    "Position": "a place in a stream of NATS, or of Pulsar: no module knows both",
    "Positions": "as Position",
}
SPELLED_CHANNELS = {
    "core/channels.py": "where they are spelled",
    "drivers/kafka/channels.py": "a topic beside the dead letters, and Kafka's own",
    "drivers/kafka/consumer.py": "as above, in a regular expression",
    "testing/conformance/retrying.py": "a channel that somebody named so",
    "testing/harness.py": "a key of worker.toml, in an error",
}
PRIVATE_NAMES = {
    "outbox/connections.py": "no library tells otherwise whether a transaction is open",
}
BANNED = {
    "Allowance": "KeyLimit",
    "autopsy": "exit_analysis",
    "Beat": "Heartbeat",
    "bell": "waker",
    "Bench": "ConformanceContext",
    "changing": "one module per dlq command",
    "Claim": "ConformanceCheck",
    "Claimer": "Deduplicator",
    "claimer": "dedup_stage",
    "Claiming": "DedupSettings",
    "clamping": "clock_skew",
    "convict": "count_crash",
    "crew": "chaos_handlers",
    "Death": "ProcessExit",
    "Desk": "DeadLetters",
    "desk": "dead_letters, browser",
    "doomed": "killed_worker",
    "effects": "idempotency",
    "Environment": "WorkerServices",
    "Feed": "PullConsumer",
    "Finished": "RangeSet",
    "fleet": "worker_group",
    "for_ever": "indefinitely",
    "Forms": "ChannelFormats",
    "gate": "isolation",
    "Hand": "InFlightId",
    "happened": "on_change",
    "Holding": "DelayQueue",
    "in_hand": "in_flight",
    "Inlet": "ConsumerThread",
    "inlet": "consumer_thread",
    "Island": "AsyncioThread",
    "island": "asyncio_bridge",
    "IslandSource": "BridgedSource",
    "janitor": "retention",
    "last_words": "send_final",
    "Letters": "DeadLetterReader",
    "lifeline": "parent_watch",
    "maximum_attempts": "maximum_retries",
    "OnAsyncio": "AsyncioDriverAdapter",
    "placed": "error_context",
    "placing": "error_context",
    "retry_topics_count": "retry_channels_count",
    "sent_back": "early_retries",
    "showing": "show",
    "standin": "scripted_child",
    "survey": "preflight",
    "SuspectsBook": "CrashCounter",
    "theatre": "virtual_worker",
    "Troubles": "FaultRates",
    "Turn": "PendingClaim",
    "upkeep": "maintenance",
    "wired": "formats",
    "wiring": "source_builder",
}
"""Words of our own that gave way to the field's, and those."""


class Module(NamedTuple):
    name: str
    text: str
    tree: ast.Module
    lines: frozenset[int]


@cache
def modules() -> tuple[Module, ...]:
    return tuple(_read(path) for path in sorted(PACKAGE.rglob("*.py")))


def _read(path: Path) -> Module:
    text = path.read_text()
    tree = ast.parse(text)
    return Module(path.relative_to(PACKAGE).as_posix(), text, tree, frozenset(_code_lines(text, tree)))


def _code_lines(text: str, tree: ast.Module) -> set[int]:
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in _texts(tree):
        lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def _texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Docstrings, those of attributes too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def _definitions(body: Iterable[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition | ast.ClassDef]]:
    """All functions and classes with their qualified names."""
    for node in body:
        if isinstance(node, Definition | ast.ClassDef):
            yield prefix + node.name, node
            yield from _definitions(node.body, f"{prefix}{node.name}.")


def _classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                yield module.name, node


def _methods(node: ast.ClassDef) -> list[Definition]:
    return [one for one in node.body if isinstance(one, Definition)]


def _fields(node: ast.ClassDef) -> set[str]:
    """What is annotated in the class, and what its methods set on ``self``."""
    fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
    for method in _methods(node):
        for one in ast.walk(method):
            if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and _is_self(one.value):
                fields.add(one.attr)
    return fields


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _compare(over: Mapping[str, object], known: Iterable[str]) -> None:
    """What is over a limit is in its list, and nothing else is."""
    new = {name: over[name] for name in over.keys() - set(known)}
    assert not new, f"take it apart, or name it here with a reason: {new}"
    mended = sorted(set(known) - over.keys())
    assert not mended, f"no longer over the limit, strike it from the list: {mended}"


def test_no_function_is_longer_than_fifty_lines() -> None:
    lengths = {
        f"{module.name} {name}": sum(node.lineno <= line <= (node.end_lineno or 0) for line in module.lines)
        for module in modules()
        for name, node in _definitions(module.tree.body)
        if isinstance(node, Definition)
    }
    _compare({name: length for name, length in lengths.items() if length > FUNCTION_LINES}, LONG_FUNCTIONS)


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    lengths = {module.name: len(module.lines) for module in modules()}
    _compare({name: length for name, length in lengths.items() if length > MODULE_LINES}, LONG_MODULES)


def test_no_class_has_more_than_twenty_five_methods() -> None:
    counts = {node.name: len(_methods(node)) for _, node in _classes()}
    _compare({name: count for name, count in counts.items() if count > CLASS_METHODS}, MANY_METHODS)


def test_no_class_has_more_than_fifteen_fields() -> None:
    counts = {node.name: len(_fields(node)) for _, node in _classes()}
    _compare({name: count for name, count in counts.items() if count > CLASS_FIELDS}, MANY_FIELDS)


def test_no_function_waives_the_rules_of_complexity() -> None:
    waived = {
        f"{module.name} {rule}": line.strip()
        for module in modules()
        for line in module.text.splitlines()
        if "# noqa" in line
        for rule in re.findall(r"\b(C901|PLR0912|PLR0915)\b", line)
    }
    _compare(waived, COMPLEX_FUNCTIONS)


def test_a_class_name_stands_for_one_class() -> None:
    names = Counter(node.name for _, node in _classes())
    _compare({name: count for name, count in names.items() if count > 1}, SAME_NAMES)


def test_retry_channels_and_dead_letters_are_spelled_in_one_place() -> None:
    spelled: dict[str, str] = {}
    for module in modules():
        texts = {id(node) for node in _texts(module.tree)}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in texts:
                value = node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
                if ".dlq" in value or ".retry." in value:
                    spelled[module.name] = value
    _compare(spelled, SPELLED_CHANNELS)


def test_private_names_of_client_libraries_are_touched_in_their_modules_only() -> None:
    """Ruff finds other private names (SLF001), so it is enough to know where it is waived or evaded."""
    touched = {
        module.name: line.strip()
        for module in modules()
        if module.name.startswith(("drivers/", "outbox/", "dedup/", "lineage/"))
        and not module.name.endswith("/client_internals.py")
        for line in module.text.splitlines()
        if "SLF001" in line or re.search(r'getattr\(.*, "_[a-z]', line)
    }
    _compare(touched, PRIVATE_NAMES)
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    ignored: dict[str, list[str]] = ruff["per-file-ignores"]
    waived = [files for files, rules in ignored.items() if "SLF001" in rules and files.startswith("runtime/")]
    assert [files for files in waived if not files.endswith("/client_internals.py")] == []


def test_words_that_gave_way_do_not_come_back() -> None:
    found = {
        f"{module.name} {word}": f"use {BANNED[word]}"
        for module in modules()
        for word in _identifiers(module).keys() & BANNED.keys()
    }
    _compare(found, ())


def _identifiers(module: Module) -> Counter[str]:
    """Names of modules, classes, functions, arguments, variables and attributes, without leading underscores."""
    words = Counter(module.name.removesuffix(".py").split("/"))
    for node in ast.walk(module.tree):
        for kind in ("id", "attr", "arg", "name"):
            value = getattr(node, kind, None)
            if isinstance(value, str):
                words[value.strip("_")] += 1
    return words
