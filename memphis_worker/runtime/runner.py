"""Runner: the life of one worker process. `run()` is the whole of it: connect, declare, work, stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from memphis_worker.app import App
from memphis_worker.client.pull import PullStream
from memphis_worker.client.transport import Transport
from memphis_worker.errors import ConnectionClosed, Disconnected, NotReachable, RequestTimeout
from memphis_worker.handler import Handler
from memphis_worker.log import get_logger
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.executor import Executor
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.runtime.lifespan import Lifespan
from memphis_worker.runtime.status import State, Status
from memphis_worker.runtime.stop import Stop, ended_before
from memphis_worker.runtime.work import Session, Work

__all__ = ["Runner", "Session"]

log = get_logger(__name__)

CONNECT_PAUSE_S = (0.25, 5.0)
HEARTBEAT_S = 0.25
#: What a broker that is down, or going down, answers: tried again for as long as it takes.
TRANSIENT = (NotReachable, RequestTimeout, Disconnected, ConnectionClosed)
_EVENTS: dict[State, str] = {
    "starting": "worker.starting",
    "running": "worker.started",
    "draining": "worker.stopping",
    "stopped": "worker.stopped",
}


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
        self._work: Work | None = None
        self._fault: BaseException | None = None

    @property
    def executor(self) -> Executor | None:
        """`None` until the broker has been reached."""
        return self._work.executor if self._work is not None else None

    @property
    def streams(self) -> list[PullStream]:
        return self._work.streams if self._work is not None else []

    # --------------------------------------------------------------- the life

    async def run(self) -> int:
        """Works until it is asked to stop. Returns the exit code; raises what the broker refuses for good."""
        self._state("starting", handlers=[handler.name for handler in self._handlers])
        beat = asyncio.create_task(self._heartbeat(), name="heartbeat")
        context = self._app.lifespan(self._app) if self._app.lifespan is not None else None
        lifespan, code = Lifespan(context, self._stop), 0
        try:
            try:
                if await lifespan.enter():
                    self._status.imported = True
                    code = await self._consume()
            finally:
                failed = await lifespan.leave()
            error = self._fault or failed
            if error is not None:
                raise error
            return code
        finally:
            beat.cancel()
            self._state("stopped")

    async def _consume(self) -> int:
        work = await self._connect()
        if work is None:
            return 0
        async with self._serving(work):
            work.start(self._group_ended)
            self._state("running")
            await self._stop.requested.wait()
            self._state("draining", reason=self._stop.reason)
            return await work.shut_down()

    @contextlib.asynccontextmanager
    async def _serving(self, work: Work) -> AsyncIterator[None]:
        """The app may produce, and changes of the connection are told, for as long as this lasts."""
        transport = work.session.transport
        self._work = work
        end = transport.on_change(lambda: self._connection_changed(transport))
        self._connection_changed(transport)
        self._app.bind(work.session.produce)
        try:
            yield
        finally:
            self._app.bind(None)
            end()
            await work.close()

    # ---------------------------------------------------------------- connect

    async def _connect(self) -> Work | None:
        """Tries for as long as nobody answers; says so once, and once more when somebody does. `None`: stopped."""
        pause, down = CONNECT_PAUSE_S[0], False
        self._status.groups = len(self._handlers)
        while not self._stop.requested.is_set():
            attempt = asyncio.ensure_future(self._attempt())
            if not await ended_before(self._stop.requested, attempt):
                return None
            try:
                work = attempt.result()
            except TRANSIENT as exc:
                (log.debug if down else log.warning)("broker.unreachable", error=str(exc), action="keeps trying")
                down = True
                await ended_before(self._stop.requested, asyncio.sleep(pause * random.uniform(0.5, 1.5)))  # noqa: S311
                pause = min(CONNECT_PAUSE_S[1], pause * 2)
                continue
            log.info("broker.connected")
            self._status.bound = len(work.streams)
            return work
        return None

    async def _attempt(self) -> Work:
        session = await self._connect_once()
        work = Work(self._app, self._handlers, self._options, session, stop=self._stop, instrument=self._instrument)
        try:
            await work.declare()
        except BaseException:
            await work.close()
            raise
        return work

    # ------------------------------------------------------------------- work

    def _group_ended(self, stream: PullStream, error: BaseException | None) -> None:
        """One group is gone: the worker stops, since the app asked for all of them."""
        self._status.bound -= 1
        self._fault = self._fault or error
        log.error("consumer.missing", station=stream.station, consumer_group=stream.group, error=str(error))
        if not self._stop.requested.is_set():  # a second request would cut the other handlers off
            self._stop.request(f"group {stream.group} of station {stream.station} cannot be consumed")

    def _connection_changed(self, transport: Transport) -> None:
        status = self._status
        if transport.connected == status.connected:
            return
        status.connected = transport.connected
        self._instrument.connection_changed(transport.connected)
        if not transport.connected:
            status.disconnected_since = time.monotonic()
            if not self._stop.requested.is_set():
                log.warning("broker.disconnected", action="reconnects")
        elif transport.epoch > 1:
            log.info("broker.reconnected", downtime_s=round(time.monotonic() - status.disconnected_since, 3))

    async def _heartbeat(self) -> None:
        """What health reads: that the loop has its turns, and which groups are silent."""
        status = self._status
        while True:
            status.heartbeat = time.monotonic()
            if self._work is not None:
                status.silent = tuple(f"{each.station}/{each.group}" for each in self.streams if each.stalled)
                status.unrecorded = self._work.settlement.unrecorded
            await asyncio.sleep(HEARTBEAT_S)

    def _state(self, state: State, **facts: object) -> None:
        self._status.state = state
        self._instrument.state_changed(state)
        log.info(_EVENTS[state], app=self._app.name, **facts)
