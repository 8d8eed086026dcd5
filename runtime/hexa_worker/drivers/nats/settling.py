"""Settling what the consumers of one subscription have delivered: nothing is acknowledged by a claim that is lost."""

from collections.abc import Sequence

from hexa_worker.config.nats import Acknowledge
from hexa_worker.core.settlement import Acked, Postponed, Released, Settlement
from hexa_worker.drivers.base import Unsettled
from hexa_worker.drivers.kit.settling import WithRecord, store_records
from hexa_worker.drivers.nats import names
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.consumer import PullConsumer
from hexa_worker.drivers.nats.publisher import NatsPublisher
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, LeaseLost


class NatsSettling:
    """What settles for one source.

    Args:
        pull_consumers: the source's, by number; it may add to them and exchange them.
        connection: the way to the server.
        publisher: stores retries and dead letters.
        ack: whether acknowledgements wait for the server's answer.

    Attributes:
        stopped: nothing is handed out any more.
    """

    def __init__(
        self,
        pull_consumers: Sequence[PullConsumer],
        connection: NatsConnection,
        publisher: NatsPublisher,
        ack: Acknowledge,
    ) -> None:
        self.stopped = False
        self._pull_consumers = pull_consumers
        self._connection = connection
        self._publisher = publisher
        self._ack = ack

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Unsettled]:
        """See `hexa_worker.drivers.base.Source.settle`."""
        failed: list[Unsettled] = []
        for pull_consumer in self._pull_consumers:
            pull_consumer.expire()
            await pull_consumer.be_sure()
        valid = self._sort_out_lost(settlements, failed)
        valid = await self._store_records(valid, failed)
        done: dict[int, list[int]] = {}
        released: dict[int, list[int]] = {}
        for settlement in valid:
            token = settlement.delivery.token
            if isinstance(settlement, Postponed):
                self._pull_consumers[token.pull_consumer].term.postpone(settlement)
                continue
            place = released if type(settlement) is Released else done
            place.setdefault(token.pull_consumer, []).append(settlement.delivery.offset)
        for number, sequences in released.items():
            self._release(self._pull_consumers[number], sequences)
        epochs = {number: self._pull_consumers[number].in_flight.epoch for number in done}
        for number, sequences in done.items():
            error = await self._acknowledge(self._pull_consumers[number], epochs[number], sequences)
            if error is not None:
                failed += [
                    Unsettled(one, error)
                    for one in valid
                    if one.delivery.token.pull_consumer == number and type(one) is not Released
                ]
        return failed

    def _sort_out_lost(
        self, settlements: Sequence[Settlement], failed: list[Unsettled], *, stored: bool = False
    ) -> list[Settlement]:
        """Those whose claim holds. One that was done all the same is acknowledged when its copy comes here.

        What is postponed needs no claim while it is in flight: were it given up, what follows in its key would go on.

        Args:
            settlements: what is asked.
            failed: gets the others.
            stored: retries and dead letters are durable, so these are done.
        """
        pull_consumers = self._pull_consumers
        valid: list[Settlement] = []
        for settlement in settlements:
            delivery = settlement.delivery
            pull_consumer, sequence = pull_consumers[delivery.token.pull_consumer], delivery.offset
            in_flight = pull_consumer.in_flight
            if delivery.token.epoch != in_flight.epoch:  # the sequence may be another message's by now
                failed.append(Unsettled(settlement, LeaseLost(f"{delivery.message_id} was of a deleted consumer")))
            elif sequence in in_flight.held and (sequence not in in_flight.lost or isinstance(settlement, Postponed)):
                valid.append(settlement)
            elif sequence not in in_flight.settled:
                done = type(settlement) is not Released if stored else type(settlement) is Acked
                pull_consumer.let_go([sequence], done=done)
                failed.append(Unsettled(settlement, LeaseLost(f"{delivery.message_id} may be somebody else's by now")))
        return valid

    async def _store_records(self, settlements: list[Settlement], failed: list[Unsettled]) -> list[Settlement]:
        """Make retries and dead letters durable; returns what may be acknowledged now."""
        with_record = [one for one in settlements if isinstance(one, WithRecord)]
        if not with_record:
            return settlements
        _, unsettled = await store_records(with_record, self._publish_records)
        failed += unsettled
        refused = {id(one.settlement) for one in unsettled}
        # Meanwhile claims may have been lost.
        return self._sort_out_lost([one for one in settlements if id(one) not in refused], failed, stored=True)

    async def _publish_records(self, settlements: Sequence[WithRecord]) -> Sequence[str | DriverError]:
        ids = [
            f"{one.delivery.message_id}>{one.delivery.timestamp_ms}>{names.token(one.record.channel)}"
            for one in settlements
        ]
        ours = [one.record.payload is not one.delivery.payload for one in settlements]
        return await self._publisher.publish([one.record for one in settlements], ids, limited=ours)

    def _release(self, pull_consumer: PullConsumer, sequences: list[int]) -> None:
        if pull_consumer.exclusive:
            pull_consumer.let_go(sequences, done=False)
            if not self.stopped:  # or what is in flight would count as lost: nothing is handed out here any more
                pull_consumer.want_rewind()  # it must come again before what is newer
            return
        held = pull_consumer.in_flight.held
        pull_consumer.send([held[sequence] for sequence in sequences if sequence in held], b"-NAK")
        pull_consumer.let_go(sequences, done=False)

    async def _acknowledge(self, pull_consumer: PullConsumer, epoch: int, sequences: list[int]) -> DriverError | None:
        """Acknowledge, or tell why that cannot be. Raises DriverUnavailable.

        Args:
            pull_consumer: which consumer's.
            epoch: in which the sequences mean what they are to mean.
            sequences: what is done.
        """
        await pull_consumer.be_sure()  # the connection may have been lost and be back since we looked
        in_flight = pull_consumer.in_flight
        if in_flight.epoch != epoch:  # as it was found just now, or while other consumers were acknowledged
            return LeaseLost(f"the stream {pull_consumer.stream!r} is another one by now")
        replies = [in_flight.held[sequence] for sequence in sequences if sequence in in_flight.held]
        if not replies:
            return None
        if self._ack == "fast":
            if not self._connection.up:
                raise DriverUnavailable("nats: the connection is lost")
            pull_consumer.send(replies, b"+ACK")
        else:
            try:
                there = await pull_consumer.confirm(replies, b"+ACK")
            except DriverRejected as error:
                return error
            if in_flight.epoch != epoch or not there:
                if in_flight.epoch == epoch:
                    pull_consumer.let_go(sequences, done=False)
                return LeaseLost(f"the durable {pull_consumer.durable!r} was deleted")
        pull_consumer.let_go(sequences, done=True)
        return None
