"""Runner: the life of one worker process. `run()` is the whole of it: start, work, stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from memphis_worker.app import App
from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.message import Message
from memphis_worker.client.pull import ByteBudget, PullStream
from memphis_worker.client.transport import Transport
from memphis_worker.context import Context, Produce
from memphis_worker.errors import BrokerError, ConnectionClosed, Disconnected, NotReachable, RequestTimeout
from memphis_worker.handler import Handler
from memphis_worker.middleware import Call, compose
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.binding import DEAD_STATION, bind, dead_station_options, declare_station
from memphis_worker.runtime.dead_letters import DeadLetters, target_of
from memphis_worker.runtime.executor import Executor, Lane
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.runtime.keepalive import Keepalive
from memphis_worker.runtime.puller import Puller
from memphis_worker.runtime.settlement import Settlement
from memphis_worker.runtime.status import Status
from memphis_worker.runtime.stop import Stop
from memphis_worker.runtime.threads import Threads

__all__ = ["Runner", "Session"]

log = structlog.get_logger(__name__)

CONNECT_PAUSE_S = (0.25, 5.0)
HEARTBEAT_S = 0.25
DRAIN_S = 5.0
CANCEL_S = 1.0
SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in connection to a broker: its control plane and its transport."""

    plane: ControlPlane
    transport: Transport
    produce: Produce

    async def close(self) -> None:
        await self.transport.close()
        await self.plane.close()


class Runner:
    """One process that consumes. Everything it needs is handed to it; it opens and closes it."""

    def __init__(
        self,
        app: App,
        handlers: Sequence[Handler],
        options: WorkerOptions,
        *,
        connect: Callable[[], Awaitable[Session]],
        stop: Stop,
        status: Status,
        instrument: Instrument,
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._options = options
        self._connect_once = connect
        self._stop = stop
        self._status = status
        self._instrument = instrument
        self.streams: list[PullStream] = []
        self.executor: Executor | None = None

    # --------------------------------------------------------------- the life

    async def run(self) -> int:
        """Works until it is asked to stop. Returns the exit code; raises what the broker refuses for good."""
        self._state("starting", handlers=[handler.name for handler in self._handlers])
        beat = asyncio.create_task(self._heartbeat(), name="heartbeat")
        try:
            async with self._lifespan(), self._session() as session:
                if session is None:
                    return 0
                async with self._working(session) as (settlement, keepalive):
                    self._state("running")
                    error = await self._until_stopped()
                    self._state("draining", reason=self._stop.reason or str(error))
                    code = await self._shut_down(session.transport, settlement, keepalive)
                if error is not None:
                    raise error
                return code
        finally:
            beat.cancel()
            self._state("stopped")

    @contextlib.asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        async with self._app.lifespan(self._app) if self._app.lifespan is not None else contextlib.nullcontext():
            self._status.imported = True
            yield

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[Session | None]:
        session = await self._connect()
        if session is None:
            yield None
            return
        end = session.transport.on_change(lambda: self._connection_changed(session.transport))
        self._connection_changed(session.transport)
        self._app.bind(session.produce)
        try:
            yield session
        finally:
            self._app.bind(None)
            end()
            await session.close()

    @contextlib.asynccontextmanager
    async def _working(self, session: Session) -> AsyncIterator[tuple[Settlement, Keepalive]]:
        settlement = Settlement(DeadLetters(session.plane, session.transport).record, self._instrument)
        executor = Executor(concurrency=self._options.concurrency, settlement=settlement, instrument=self._instrument)
        self.executor = executor
        threads = Threads(self._options.thread_limit)
        keepalive = Keepalive(executor, settlement, self._instrument)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(threads.close)
            await self._start_streams(session, executor, threads)
            pulling = [
                asyncio.create_task(stream.run(), name=f"pull {stream.station}/{stream.group}")
                for stream in self.streams
            ]
            for task in pulling:
                task.add_done_callback(self._pull_ended)
            stack.push_async_callback(_cancelled, pulling)
            keepalive.start()
            stack.callback(keepalive.stop)
            self._settlement = settlement
            yield settlement, keepalive

    # ------------------------------------------------------------------ start

    async def _connect(self) -> Session | None:
        """Tries for as long as nobody answers; says so once, and once more when somebody does."""
        pause, down = CONNECT_PAUSE_S[0], False
        while not self._stop.requested.is_set():
            try:
                session = await self._connect_once()
            except (NotReachable, RequestTimeout, Disconnected, ConnectionClosed) as exc:
                (log.debug if down else log.warning)("broker.unreachable", error=str(exc), action="keeps trying")
                down = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause * random.uniform(0.5, 1.5)):  # noqa: S311
                        await self._stop.requested.wait()
                pause = min(CONNECT_PAUSE_S[1], pause * 2)
                continue
            log.info("broker.connected")
            return session
        return None

    async def _start_streams(self, session: Session, executor: Executor, threads: Threads) -> None:
        """Stations and groups one at a time: creates are not atomic on a real broker."""
        plane, transport = session.plane, session.transport
        self._status.groups = len(self._handlers)
        for target in sorted({each for each in map(target_of, self._handlers) if each is not None}):
            await declare_station(plane, target, None if target != DEAD_STATION else dead_station_options())
        budget = ByteBudget(self._options.window_bytes, len(self._handlers))
        for handler in self._handlers:
            pullable = await bind(plane, transport, handler)
            limit = handler.options.concurrency or self._options.concurrency
            if not handler.is_async:
                limit = min(limit, threads.limit)
            lane = Lane(
                handler,
                self._composed(handler, threads),
                limit=min(limit, self._options.concurrency),
                max_deliver=pullable.max_deliver,
                ack_wait_s=pullable.ack_wait_s,
            )
            executor.add(lane)
            stream = PullStream(
                transport,
                pullable,
                station=handler.station,
                group=handler.group,
                deliver=Puller(lane, executor, self._instrument).deliver,
                concurrency=lane.limit,
                budget=budget,
                batch_max=handler.options.batch_size,
                expires_s=handler.options.batch_max_time_to_wait_ms / 1000,
            )
            self.streams.append(stream)
            self._status.bound += 1
            log.info(
                "consumer.bound",
                station=handler.station,
                consumer_group=handler.group,
                handler=handler.name,
                ack_wait_s=pullable.ack_wait_s,
                max_deliver=pullable.max_deliver,
            )

    def _composed(self, handler: Handler, threads: Threads) -> Call:
        def context(message: Message) -> Context:
            return Context(
                message=message,
                handler=handler.name,
                state=self._app.state,
                is_stopping=self._stop.requested.is_set,
            )

        if handler.is_async:
            call = handler.call(handler.function, context)  # type: ignore[arg-type]  # is_async says it is awaitable
        else:

            def invoke(*args: object, **kwargs: Any) -> Awaitable[object]:
                return threads.run(handler.function, *args, **kwargs)

            call = handler.call(invoke, context)
        return compose(call, self._app.middlewares)

    # ------------------------------------------------------------------- work

    async def _until_stopped(self) -> BrokerError | None:
        """Returns at the stop signal, or with the reason why a group cannot be consumed any more."""
        await self._stop.requested.wait()
        return next((stream.error for stream in self.streams if stream.error is not None), None)

    def _pull_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("pull.failed", exc_info=error)
            self._stop.request("a pull loop failed")
        for stream in self.streams:
            if stream.error is not None:
                self._status.bound -= 1
                log.error(
                    "consumer.missing", station=stream.station, consumer_group=stream.group, error=str(stream.error)
                )
                self._stop.request(str(stream.error))

    def _connection_changed(self, transport: Transport) -> None:
        status = self._status
        if transport.connected == status.connected:
            return
        status.connected = transport.connected
        self._instrument.connection_changed(transport.connected)
        if transport.connected:
            down = time.monotonic() - status.disconnected_since
            if transport.epoch > 1:
                log.info("broker.reconnected", downtime_s=round(down, 3))
        else:
            status.disconnected_since = time.monotonic()
            if not self._stop.requested.is_set():
                log.warning("broker.disconnected", action="reconnects")

    async def _heartbeat(self) -> None:
        status = self._status
        while True:
            status.heartbeat = time.monotonic()
            status.silent = tuple(f"{each.station}/{each.group}" for each in self.streams if each.stalled)
            if self.executor is not None:
                status.unrecorded = self._settlement.unrecorded
            await asyncio.sleep(HEARTBEAT_S)

    # ------------------------------------------------------------------- stop

    async def _shut_down(self, transport: Transport, settlement: Settlement, keepalive: Keepalive) -> int:
        """The order matters: see docs/delivery.md. Returns 0, or 4 when unfinished work was handed back."""
        executor, stop = self.executor, self._stop
        assert executor is not None
        began = time.monotonic()
        unsent = settlement.unsent
        for stream in self.streams:
            stream.stop_asking()
        await self._unless_at_once(_all(stream.arrived() for stream in self.streams))
        await _all(stream.drain(DRAIN_S) for stream in self.streams)
        released = executor.hand_back()
        left = self._options.shutdown_timeout_s - (time.monotonic() - began)
        finished = await self._unless_at_once(executor.idle(), max(0.0, left))
        cancelled = 0
        if not finished:
            cancelled = executor.cancel_all()
            await _within(executor.idle(), CANCEL_S)
        abandoned = executor.abandon()
        await _within(settlement.finish(), SETTLE_S * 4)
        for _ in range(2):
            await transport.barrier(SETTLE_S)
        stranded = settlement.unsent - unsent
        log.info(
            "worker.drained",
            released=released,
            cancelled=cancelled + abandoned,
            stranded=stranded,
            at_once=stop.at_once.is_set(),
            duration_s=round(time.monotonic() - began, 3),
        )
        return 4 if cancelled or abandoned or stranded else 0

    async def _unless_at_once(self, work: Coroutine[Any, Any, None], timeout_s: float | None = None) -> bool:
        """Whether the work ended before the time, and before a second signal."""
        working = asyncio.ensure_future(work)
        second = asyncio.ensure_future(self._stop.at_once.wait())
        try:
            await asyncio.wait({working, second}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return working.done() and not second.done()
        finally:
            await _cancelled([working, second])

    def _state(self, state: Any, **facts: object) -> None:
        self._status.state = state
        self._instrument.state_changed(state)
        names = {"running": "started", "draining": "stopping"}
        log.info(f"worker.{names.get(state, state)}", app=self._app.name, **facts)


async def _all(work: Any) -> None:
    await asyncio.gather(*work)


async def _within(work: Coroutine[Any, Any, None], timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await work
    except TimeoutError:
        return False
    return True


async def _cancelled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
