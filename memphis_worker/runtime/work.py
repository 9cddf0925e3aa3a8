"""Work: what one signed-in session is put to: declares the groups, pulls, runs handlers, stops in the right order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from memphis_worker.app import App
from memphis_worker.client.budget import ByteBudget
from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.message import Message
from memphis_worker.client.pull import PullStream
from memphis_worker.client.transport import Transport
from memphis_worker.context import Context, Produce
from memphis_worker.handler import Handler
from memphis_worker.log import get_logger
from memphis_worker.middleware import Call, compose
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.binding import bind, declare_dead_stations
from memphis_worker.runtime.dead_letters import DeadLetters
from memphis_worker.runtime.executor import Executor
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.runtime.keepalive import Keepalive
from memphis_worker.runtime.lane import Lane
from memphis_worker.runtime.puller import Puller
from memphis_worker.runtime.settlement import Settlement
from memphis_worker.runtime.stop import Stop, ended_before
from memphis_worker.runtime.threads import Threads

__all__ = ["Session", "Work"]

log = get_logger(__name__)

DRAIN_S = 5.0
CANCEL_S = 1.0
SETTLE_S = 2.0
RECORD_S = 5.0
#: After a second signal, and for what a silent broker does not answer.
QUICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in connection to a broker: its control plane and its transport."""

    plane: ControlPlane
    transport: Transport
    produce: Produce

    async def close(self) -> None:
        await self.transport.close()
        await self.plane.close()


class Work:
    """Made for a session; `declare`, `start`, and in the end `shut_down` and `close`, in this order."""

    def __init__(
        self,
        app: App,
        handlers: Sequence[Handler],
        options: WorkerOptions,
        session: Session,
        *,
        stop: Stop,
        instrument: Instrument,
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._options = options
        self._stop = stop
        self._instrument = instrument
        self.session = session
        self.settlement = Settlement(DeadLetters(session.plane, session.transport).record, instrument)
        self.executor = Executor(concurrency=options.concurrency, settlement=self.settlement, instrument=instrument)
        self.streams: list[PullStream] = []
        self._keepalive = Keepalive(self.executor, self.settlement, instrument)
        self._threads = Threads(options.thread_limit)
        self._pulling: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------ start

    async def declare(self) -> None:
        """Stations and groups, one at a time: creates are not atomic on a real broker. Raises what it refuses."""
        await declare_dead_stations(self.session.plane, self._handlers)
        budget = ByteBudget(self._options.window_bytes, len(self._handlers))
        for handler in self._handlers:
            await self._bind(handler, budget)

    async def _bind(self, handler: Handler, budget: ByteBudget) -> None:
        pullable = await bind(self.session.plane, self.session.transport, handler)
        limit = min(handler.options.concurrency or self._options.concurrency, self._options.concurrency)
        lane = Lane(
            handler,
            self._composed(handler),
            limit=limit if handler.is_async else min(limit, self._threads.limit),
            max_deliver=pullable.max_deliver,
            ack_wait_s=pullable.ack_wait_s,
        )
        self.executor.add(lane)
        stream = PullStream(
            self.session.transport,
            pullable,
            station=handler.station,
            group=handler.group,
            deliver=Puller(lane, self.executor, self.session.transport, self._instrument).deliver,
            concurrency=lane.limit,
            budget=budget,
            batch_max=handler.options.batch_size,
            expires_s=handler.options.batch_max_time_to_wait_ms / 1000,
        )
        self.streams.append(stream)
        log.info(
            "consumer.bound",
            station=handler.station,
            consumer_group=handler.group,
            handler=handler.name,
            ack_wait_s=pullable.ack_wait_s,
            max_deliver=pullable.max_deliver,
        )

    def _composed(self, handler: Handler) -> Call:
        def context(message: Message) -> Context:
            return Context(
                message=message,
                handler=handler.name,
                state=self._app.state,
                is_stopping=self._stop.requested.is_set,
            )

        async def in_a_thread(*args: object, **kwargs: Any) -> object:
            running = self._threads.run(handler.function, *args, **kwargs)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                # A thread cannot be stopped: its message stays taken until it has ended, or it would run twice at once.
                await self._threads.outlast(running)
                raise

        invoke: Any = handler.function if handler.is_async else in_a_thread
        return compose(handler.call(invoke, context), self._app.middlewares)

    def start(self, on_end: Callable[[PullStream, BaseException | None], None]) -> None:
        """Begins to pull. `on_end(stream, error)`: a group cannot be pulled from any more, for this reason."""

        def ended(stream: PullStream, task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                on_end(stream, task.exception() or stream.error)

        for stream in self.streams:
            task = asyncio.create_task(stream.run(), name=f"pull {stream.station}/{stream.group}")
            task.add_done_callback(lambda task, stream=stream: ended(stream, task))  # type: ignore[misc]
            self._pulling.append(task)
        self._keepalive.start()

    # ------------------------------------------------------------------- stop

    async def shut_down(self) -> int:
        """The order matters: see docs/delivery.md. Returns 0, or 4 when unfinished work was handed back."""
        at_once, executor, settlement = self._stop.at_once, self.executor, self.settlement
        now, unsent = asyncio.get_running_loop().time, settlement.unsent
        began = now()
        for stream in self.streams:
            stream.stop_asking()
        await ended_before(at_once, _all(stream.arrived() for stream in self.streams))
        left = self._options.shutdown_timeout_s - (now() - began)
        await ended_before(at_once, _all(stream.drain(DRAIN_S) for stream in self.streams), max(QUICK_S, left))
        held = sum(stream.window.held for stream in self.streams)
        released = executor.hand_back()
        left = self._options.shutdown_timeout_s - (now() - began)
        cancelled = 0
        if not await ended_before(at_once, executor.idle(), max(0.0, left)):
            cancelled = executor.cancel_all()
            await ended_before(None, executor.idle(), CANCEL_S)
        abandoned = executor.abandon()
        await ended_before(None, settlement.finish(), QUICK_S if at_once.is_set() else RECORD_S)
        read = await self._settled(QUICK_S if at_once.is_set() else SETTLE_S)
        stranded = settlement.unsent - unsent + len(settlement.pending)
        if not read:  # what was answered since then, the broker may not have heard of
            stranded = max(stranded, held)
        log.info(
            "worker.drained",
            released=released,
            cancelled=cancelled + abandoned,
            stranded=stranded,
            at_once=at_once.is_set(),
            duration_s=round(now() - began, 3),
        )
        return 4 if cancelled or abandoned or stranded else 0

    async def _settled(self, timeout_s: float) -> bool:
        """Whether the broker has read all answers; asked twice, since reading is not yet processing."""
        barrier = self.session.transport.barrier
        return await barrier(timeout_s) and await barrier(timeout_s)

    async def close(self) -> None:
        """Ends what runs and the session. Threads that still run are left behind; they do not hold up the exit."""
        self._keepalive.stop()
        for task in self._pulling:
            task.cancel()
        if self._pulling:
            await asyncio.wait(self._pulling)
        self._threads.close()
        await self.session.close()


async def _all(work: Any) -> None:
    each: list[Coroutine[Any, Any, None]] = list(work)
    await asyncio.gather(*each)
