"""Runs handlers: a lane for each of them, slots for handler and process, and runners instead of a task a message.

A runner is a task that holds one slot and empties its lane's `ready`, one message after the other, for at most 2 ms
without giving the loop a turn. A handler that never suspends therefore costs no task at all. When one does suspend,
`_look`, which the runner left behind in the loop, sees it and starts the next runner if a slot is free. A runner whose
handler comes back goes on with the lane, or ends if another one has it. A message that is held is always in exactly
one place: `ready`, `inside`, `suspended`, or the settlement's `pending`; the keepalive finds it there.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Iterable

from memphis_worker.client.message import Message
from memphis_worker.errors import MemphisWorkerError
from memphis_worker.failure import describe, failure
from memphis_worker.handler import Undecodable
from memphis_worker.log import get_logger
from memphis_worker.retry import Reject, Retry
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.runtime.lane import Cancelled, HandlerTimeout, Lane, refuse_unawaited
from memphis_worker.runtime.settlement import (
    DeadLetter,
    Decision,
    Discard,
    Redeliver,
    Release,
    Settlement,
    crashed,
    decide,
    facts,
)

__all__ = ["Executor"]

log = get_logger(__name__)

TURN_S = 0.002
UNDECIDED_S = 30.0
#: What a handler raises to say what is to become of a message, and bodies that do not fit: no fault of its code.
ORDERS = (Retry, Reject, Undecodable)
_OUTCOMES: dict[type, str] = {Redeliver: "retry", DeadLetter: "dead_letter", Discard: "reject"}
_ANSWERED = {"ack": "success", "nak": "retry", "term": "reject"}


class Executor:
    """All lanes of a process, and the process's own slots."""

    def __init__(self, *, concurrency: int, settlement: Settlement, instrument: Instrument) -> None:
        self.concurrency = concurrency
        self.lanes: list[Lane] = []
        self._settlement = settlement
        self._finished = instrument.finished
        self._instrument = instrument
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._runners = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, lane: Lane) -> None:
        self.lanes.append(lane)

    def submit(self, lane: Lane, messages: Iterable[Message]) -> None:
        """Queues messages; they run as slots become free, in this order."""
        lane.ready.extend(messages)
        if not lane.ready:  # all of it was done already; nothing would say that the process is idle again
            return
        self._idle.clear()
        self._start(lane)

    # ------------------------------------------------------------------ running

    def _start(self, lane: Lane) -> None:
        if lane.ready and lane.owner is None and lane.runners < lane.limit and self._runners < self.concurrency:
            lane.runners += 1
            self._runners += 1
            # A context of its own: a runner may be started from inside of another handler's.
            lane.owner = self._loop.create_task(
                self._run(lane), name=f"runner {lane.handler.name}", context=self._context.copy()
            )

    async def _run(self, lane: Lane) -> None:
        me = asyncio.current_task()
        assert me is not None
        clock, ready, call, ring = self._loop.time, lane.ready, lane.call, lane.done
        handler, finished, suspect_after = lane.handler, self._finished, lane.suspect_after
        now = clock()
        turn_ends = now + TURN_S
        try:
            while ready and lane.owner is me:
                message = ready.popleft()
                if now >= message.lease_end or message.deliveries > suspect_after:
                    self._refuse(lane, message)
                    continue
                lane.inside = message
                if not lane.looking:
                    lane.looking = True
                    self._loop.call_soon(self._look, lane)
                started = now
                try:
                    result = await call(message)
                    if result is not None:
                        refuse_unawaited(result)
                except BaseException as exc:
                    if isinstance(exc, GeneratorExit) and self._loop.is_closed():
                        raise
                    now = clock()
                    self._failed_somehow(lane, message, exc, self._returned(lane, me), now - started)
                else:
                    now = clock()
                    if lane.owner is me:
                        lane.inside = None
                    elif self._returned(lane, me) == "abandoned":
                        break
                    if message.settled:
                        if message.answer == "ack":
                            ring.add(message.sequence, message.stored_ns)
                        finished(handler, message, _ANSWERED.get(message.answer, "cancelled"), now - started)
                    else:
                        try:
                            message.settle_ack()
                        except MemphisWorkerError as exc:
                            self._unacked(lane, message, exc)
                        ring.add(message.sequence, message.stored_ns)
                        finished(handler, message, "success", now - started)
                if now >= turn_ends:
                    if self._starving(lane):
                        break
                    if lane.owner is me:
                        await asyncio.sleep(0)
                        now = clock()
                    turn_ends = now + TURN_S
        finally:
            if lane.owner is me:
                lane.owner = None
            lane.runners -= 1
            self._runners -= 1
            self._next(lane)

    def _look(self, lane: Lane) -> None:
        """Runs when the loop has its turn: a message still inside means that its handler has suspended."""
        lane.looking = False
        if lane.inside is not None and lane.owner is not None:
            lane.suspended[lane.owner] = lane.inside
            lane.inside = None
            lane.owner = None
            self._start(lane)

    def _returned(self, lane: Lane, me: asyncio.Task[None]) -> Cancelled | None:
        """The runner's handler has given its message back; it owns the lane again if nobody else does.

        Returns why we had cancelled the handler, if we had: also one that swallowed it.
        """
        lane.suspended.pop(me, None)
        if lane.owner is me:
            lane.inside = None
        elif lane.owner is None:
            lane.owner = me
        cancelled = lane.cancelled.pop(me, None)
        if cancelled is not None:
            me.uncancel()
        return cancelled

    def _starving(self, lane: Lane) -> bool:
        """Whether another lane has work and no slot: then this runner gives its own away."""
        return self._runners >= self.concurrency and any(
            each.ready and not each.runners for each in self.lanes if each is not lane
        )

    def _next(self, lane: Lane) -> None:
        """A slot is free: the other lanes come first, or a busy one would keep it for ever."""
        at = self.lanes.index(lane) + 1
        for each in self.lanes[at:] + self.lanes[:at]:
            self._start(each)
        self._see_idle()

    def _see_idle(self) -> None:
        if not self._runners and not any(each.ready for each in self.lanes):
            self._idle.set()

    # ---------------------------------------------------------------- outcomes

    def _failed_somehow(
        self, lane: Lane, message: Message, error: BaseException, cancelled: Cancelled | None, duration_s: float
    ) -> None:
        """Also an error of ours on the way, or of the user's policy, costs the message an attempt and no more."""
        try:
            self._failed(lane, message, error, cancelled, duration_s)
        except Exception as exc:  # noqa: BLE001
            log.error("message.settle_failed", **facts(lane.handler, message), operation="decide", **failure(exc))
            if not message.settled:
                self._settlement.settle(lane.handler, message, Redeliver(UNDECIDED_S), duration_s)

    def _failed(
        self, lane: Lane, message: Message, error: BaseException, cancelled: Cancelled | None, duration_s: float
    ) -> None:
        if isinstance(error, HandlerTimeout):
            cancelled = "timeout"
        handler = lane.handler
        if cancelled == "abandoned":  # abandon() has said what becomes of it
            return
        if cancelled not in ("stop", "lease") and not isinstance(error, ORDERS):
            self._instrument.failed(handler, message, error)
        if message.settled:
            log.warning("message.failed_after_settling", **facts(handler, message), **failure(error))
            self._finished(handler, message, _ANSWERED.get(message.answer, "cancelled"), duration_s)
            return
        decision = decide(
            handler,
            message.deliveries,
            lane.allowed(message),
            error,
            cancelled=cancelled,
            chance=random.random(),  # noqa: S311
        )
        _log_failure(lane, message, decision, error, duration_s)
        self._settlement.settle(handler, message, decision, duration_s)

    def _refuse(self, lane: Lane, message: Message) -> None:
        """Not to be run: its lease is over, so somebody else has it, or it came too often without ever failing."""
        if not message.leased:
            message.drop()
            self._finished(lane.handler, message, "released", 0.0)
        else:
            self._settlement.settle(lane.handler, message, crashed(lane.handler))

    def _unacked(self, lane: Lane, message: Message, error: MemphisWorkerError) -> None:
        """Done here, and the broker does not know: it delivers again, and then `done` answers."""
        self._instrument.settle_failed(lane.handler, "ack")
        log.warning("message.settle_failed", **facts(lane.handler, message), operation="ack", error=str(error))

    # ---------------------------------------------------------------- stopping

    def hand_back(self) -> int:
        """Releases what has not started, but for what the broker would then never deliver again. Returns how many."""
        count = 0
        for lane in self.lanes:
            kept: list[Message] = []
            while lane.ready:
                message = lane.ready.popleft()
                if 0 < lane.allowed(message) <= message.deliveries:
                    kept.append(message)
                else:
                    self._settlement.settle(lane.handler, message, Release(ran=False))
                    count += 1
            lane.ready.extend(kept)
        self._see_idle()
        return count

    def held(self, lane: Lane) -> dict[tuple[int, int], Message]:
        """What the lane has and has not settled, dead letters on their way included, by sequence and store time."""
        held = (*self._settlement.dying(lane.handler), *lane.held())
        return {(each.sequence, each.stored_ns): each for each in held if each.sequence}

    def in_progress(self, lane: Lane) -> int:
        """Messages of the lane that a handler has, or whose dead letter is on its way. Also for another thread."""
        return lane.running + len(self._settlement.dying(lane.handler))

    async def idle(self) -> None:
        """Returns when nothing runs and nothing waits."""
        await self._idle.wait()

    def cancel(self, lane: Lane, task: asyncio.Task[None], reason: Cancelled) -> bool:
        """Cancels one suspended handler; false for a thread, which cannot be stopped."""
        if not lane.handler.is_async or task in lane.cancelled or task not in lane.suspended:
            return False
        lane.cancelled[task] = reason
        task.cancel(f"memphis-worker: {reason}")
        return True

    def cancel_all(self) -> int:
        """Cancels every suspended handler because the process stops. Returns how many."""
        return sum(self.cancel(lane, task, "stop") for lane in self.lanes for task in list(lane.suspended))

    def _cut_off(self, lane: Lane, message: Message) -> None:
        decision = decide(
            lane.handler, message.deliveries, lane.allowed(message), asyncio.CancelledError(), cancelled="stop"
        )
        self._settlement.settle(lane.handler, message, decision)

    def abandon(self) -> int:
        """Last of all: releases what still runs (threads, and handlers that swallow their cancel). Returns how many."""
        count = 0
        for lane in self.lanes:
            for task, message in list(lane.suspended.items()):
                if not message.settled:
                    self._cut_off(lane, message)
                    count += 1
                    lane.cancelled[task] = "abandoned"
                del lane.suspended[task]
            while lane.ready:  # kept by hand_back(): the broker would never deliver it again
                self._cut_off(lane, lane.ready.popleft())
                count += 1
        return count


def _log_failure(lane: Lane, message: Message, decision: Decision, error: BaseException, duration_s: float) -> None:
    if isinstance(decision, Release):
        log.info("message.cancelled", **facts(lane.handler, message), duration_s=round(duration_s, 3))
        return
    said = {"error": describe(error)} if isinstance(error, ORDERS) else failure(error)
    log.warning(
        "message.failed",
        **facts(lane.handler, message),
        outcome=_OUTCOMES.get(type(decision), "cancelled"),
        delay_s=getattr(decision, "delay_s", None),
        error_type=type(error).__name__,
        duration_s=round(duration_s, 3),
        **said,
    )
