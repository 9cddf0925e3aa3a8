"""One sweep for the whole process: extends the lease of all that is held, and cancels what has lost it."""

from __future__ import annotations

import asyncio

from memphis_worker.client.message import LEASE_SHARE, Message
from memphis_worker.log import get_logger
from memphis_worker.runtime.executor import Executor
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.runtime.lane import Lane
from memphis_worker.runtime.settlement import Settlement, facts

__all__ = ["Keepalive"]

log = get_logger(__name__)

SWEEP_S = (0.02, 5.0)


class Keepalive:
    """Every message older than a third of its ack wait gets `+WPI`; no task and no timer for a message."""

    def __init__(self, executor: Executor, settlement: Settlement, instrument: Instrument) -> None:
        self._executor = executor
        self._settlement = settlement
        self._instrument = instrument
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sweeps until `stop`, six times in the shortest ack wait."""
        shortest = min((lane.ack_wait_s for lane in self._executor.lanes), default=SWEEP_S[1])
        period = max(SWEEP_S[0], min(SWEEP_S[1], shortest / 6))
        self._timer = self._loop.call_later(period, self._again, period)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _again(self, period: float) -> None:
        self._timer = self._loop.call_later(period, self._again, period)
        self.sweep()

    def sweep(self) -> None:
        """One pass over everything that is held."""
        now = self._loop.time()
        for lane in self._executor.lanes:
            due = lane.ack_wait_s * (LEASE_SHARE - 1 / 3)
            for message in lane.held():
                if message.lease_end - now <= due:
                    self._extend(lane, message, now)
            for task, message in list(lane.suspended.items()):
                if message.settled or now < message.lease_end:
                    continue
                if self._executor.cancel(lane, task, "lease"):
                    log.warning("message.lease_lost", **facts(lane.handler, message), action="cancel")
        for _, message in list(self._settlement.pending.values()):
            message.extend_lease()

    def _extend(self, lane: Lane, message: Message, now: float) -> None:
        if now < message.lease_end and not message.settled and not message.extend_lease():
            self._instrument.settle_failed(lane.handler, "in_progress")
