"""Puller: from one pull stream to one lane. What this process has finished is acked again; the rest is queued."""

from __future__ import annotations

from operator import attrgetter

from memphis_worker.client.message import Message
from memphis_worker.client.transport import Transport
from memphis_worker.errors import MemphisWorkerError
from memphis_worker.runtime.executor import Executor
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.runtime.lane import Lane

__all__ = ["Puller"]

_deliveries = attrgetter("deliveries")


class Puller:
    """`deliver` is what the pull stream calls with each batch."""

    def __init__(self, lane: Lane, executor: Executor, transport: Transport, instrument: Instrument) -> None:
        self._lane = lane
        self._executor = executor
        self._transport = transport
        self._instrument = instrument

    def deliver(self, batch: list[Message]) -> None:
        lane = self._lane
        self._instrument.received(lane.handler, batch)
        done = lane.done.has
        again = [message for message in batch if done(message.sequence, message.stored_ns)]
        for message in again:
            self._answer_again(message)
        # A lease that ended, or a server that forgot what it had delivered: what still runs here must not run twice.
        if self._transport.epoch > 1 or max(map(_deliveries, batch)) > 1:
            again += self._renewed(batch)
        if again:
            batch = [message for message in batch if not message.settled]
        self._executor.submit(lane, batch)

    def _answer_again(self, message: Message) -> None:
        try:
            message.settle_ack()
        except MemphisWorkerError:
            self._instrument.settle_failed(self._lane.handler, "ack")
        self._instrument.finished(self._lane.handler, message, "skip", 0.0)

    def _renewed(self, batch: list[Message]) -> list[Message]:
        """The copies of what the lane still has: their lease is given to the one that has it."""
        held = self._executor.held(self._lane)
        copies = []
        for message in batch:
            running = held.get((message.sequence, message.stored_ns))
            if running is not None and not running.settled and not message.settled:
                running.renew(message)
                copies.append(message)
                self._instrument.finished(self._lane.handler, message, "skip", 0.0)
        return copies
