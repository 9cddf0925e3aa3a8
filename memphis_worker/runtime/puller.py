"""Puller: from one pull stream to one lane. What this process has finished is acked again; the rest is queued."""

from __future__ import annotations

from memphis_worker.client.message import Message
from memphis_worker.errors import MemphisWorkerError
from memphis_worker.runtime.executor import Executor
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.runtime.lane import Lane

__all__ = ["Puller"]


class Puller:
    """`deliver` is what the pull stream calls with each batch."""

    def __init__(self, lane: Lane, executor: Executor, instrument: Instrument) -> None:
        self._lane = lane
        self._executor = executor
        self._instrument = instrument

    def deliver(self, batch: list[Message]) -> None:
        lane = self._lane
        self._instrument.received(lane.handler, batch)
        done = lane.done.has
        again = [message for message in batch if done(message.sequence, message.stored_ns)]
        if again:
            for message in again:
                self._answer_again(message)
            batch = [message for message in batch if not message.settled]
        self._executor.submit(lane, batch)

    def _answer_again(self, message: Message) -> None:
        try:
            message.settle_ack()
        except MemphisWorkerError:
            self._instrument.settle_failed(self._lane.handler, "ack")
        self._instrument.finished(self._lane.handler, message, "skip", 0.0)
