"""``hexa-worker outbox relay``."""

import signal

import click

from hexa_worker.cli.project import config_option, only_config, run_async
from hexa_worker.config.load import load_config
from hexa_worker.config.model import Config


@click.command("relay", short_help="Send what is written, without a worker.")
@click.argument("arguments", nargs=-1, metavar="[WORKER.TOML]")
@config_option
@click.option("--until-idle", is_flag=True, help="End once nothing is left to send.")
def command(arguments: tuple[str, ...], config_path: str | None, *, until_idle: bool) -> None:
    """Send what is written to the outbox until SIGTERM or SIGINT. Handlers are not imported.

    Several may run, and workers beside them: one sends, the others stand by.
    """
    config = load_config(only_config(config_path, arguments))
    from hexa_worker.telemetry.configure import configure  # noqa: PLC0415 - lazy by design

    configure(level=config.file.worker.log.level, style=config.file.worker.log.format)
    run_async(_relay, config, until_idle)


async def _relay(config: Config, until_idle: bool) -> None:  # noqa: FBT001 - called with what click gives
    import anyio  # noqa: PLC0415 - lazy by design

    from hexa_worker.drivers.opening import make_plain_driver, opened  # noqa: PLC0415 - lazy by design
    from hexa_worker.outbox.opening import make_store, outbox_options  # noqa: PLC0415 - lazy by design
    from hexa_worker.outbox.relay import Relay, until_sent  # noqa: PLC0415 - lazy by design

    store, options = make_store(config), outbox_options(config)
    async with opened(make_plain_driver(config)) as driver, anyio.create_task_group() as group:
        relay = Relay(store, driver, options)

        async def obey() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    relay.stop()

        group.start_soon(obey)
        if until_idle:
            group.start_soon(until_sent, relay)
        await relay.run()
        group.cancel_scope.cancel()
    if until_idle and relay.failure is not None:
        raise relay.failure
