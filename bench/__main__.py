"""``python -m bench [SECTION …]``: measure and write bench/RESULTS.md. Without a section: all of them."""

import argparse
from collections.abc import Callable

from bench.figures import Figure, machine, table, write_section

SECTIONS: dict[str, tuple[str, Callable[[], list[Figure]]]] = {}


def _memory() -> list[Figure]:
    from bench import memory

    return memory.measure()


def _embedded() -> list[Figure]:
    from bench import embedded

    return [*embedded.measure(), embedded.latency()]


def _worker() -> list[Figure]:
    from bench import worker

    return [worker.first_message(), *worker.memory_and_idle()]


def _retries() -> list[Figure]:
    from bench import worker

    return worker.retries()


def _growth() -> list[Figure]:
    from bench import worker

    return worker.growth()


def _kafka() -> list[Figure]:
    from bench import kafka

    return _on("kafka", kafka.measure)


def _nats() -> list[Figure]:
    from bench import nats

    return _on("nats", nats.measure)


def _pulsar() -> list[Figure]:
    from bench import pulsar

    return _on("pulsar", pulsar.measure)


def _dedup() -> list[Figure]:
    from bench import dedup
    from tests.lab.lab import Lab

    lab = Lab()
    try:
        redis = lab.get("redis")
        return dedup.measure(redis.address, redis.pid)
    finally:
        lab.close()


def _outbox() -> list[Figure]:
    from bench import outbox
    from tests.lab.lab import Lab

    lab = Lab()
    try:
        return outbox.measure(*[lab.get(name).address for name in ("postgres", "kafka", "nats", "redis")])
    finally:
        lab.close()


def _on(broker: str, measure: Callable[[str], list[Figure]]) -> list[Figure]:
    from bench import idle
    from tests.lab.lab import Lab

    lab = Lab()
    try:
        address = lab.get(broker).address
        where = f'url = "{address}"' if broker == "pulsar" else f'servers = ["{address}"]'
        made = "\ncreate_channels = true" if broker == "kafka" else ""
        return [*measure(address), *idle.measure(f'driver = "{broker}"\n{where}{made}')]
    finally:
        lab.close()


SECTIONS = {
    "memory": ("The runtime's own cost (memory driver, 200-byte JSON to a Struct, all defaults)", _memory),
    "embedded": ("The embedded broker (200-byte JSON to a Struct, all defaults)", _embedded),
    "worker": ("Start-up, memory, idle", _worker),
    "retries": ("Retries and delayed events", _retries),
    "growth": ("Growth", _growth),
    "dedup": ("Deduplication (memory driver, local Redis, all defaults)", _dedup),
    "outbox": ("The outbox (servers on the same two cores, 200-byte events)", _outbox),
    "kafka": ("Kafka (one node of the lab, 200-byte JSON to a Struct, all defaults)", _kafka),
    "nats": ("NATS JetStream (one server of the lab, 200-byte JSON to a Struct, all defaults)", _nats),
    "pulsar": ("Pulsar (standalone of the lab, 200-byte JSON to a Struct, all defaults)", _pulsar),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("section", nargs="*", choices=[*SECTIONS, []], help="what to measure")
    for name in parser.parse_args().section or list(SECTIONS):
        title, measure = SECTIONS[name]
        print(f"{title} …", flush=True)
        head = machine()
        text = table(title, measure()) + "\n" + head
        print(text, flush=True)
        write_section(name, text)


main()
