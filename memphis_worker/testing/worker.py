"""`running(app)`: a whole worker inside a test, on a MemoryBroker.

async with running(app) as worker:
    await worker.produce("orders", {"id": 1})
    await worker.drained()
assert ["success"] == [each.outcome for each in worker.outcomes]
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from memphis_worker.app import App
from memphis_worker.bootstrap import make_runner, select_handlers
from memphis_worker.client.headers import parse_headers
from memphis_worker.client.message import Message
from memphis_worker.errors import MemphisWorkerError
from memphis_worker.handler import Handler
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.binding import DEAD_STATION
from memphis_worker.runtime.dead_letters import PREFIX
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.runtime.runner import Runner
from memphis_worker.runtime.status import Status
from memphis_worker.runtime.stop import Stop
from memphis_worker.testing.memory import MemoryBroker

__all__ = ["DeadLetter", "Outcome", "TestWorker", "running"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one delivery."""

    handler: str
    sequence: int
    deliveries: int
    outcome: str
    """`success`, `retry`, `dead_letter`, `reject`, `skip`, `cancelled` or `released`."""
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One dead letter as it was recorded."""

    station: str
    group: str
    handler: str
    reason: str
    error: str
    deliveries: int
    sequence: int
    data: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    """All of them, the original ones too."""


class TestWorker:
    """A running worker and what it has done. `running()` makes it."""

    __test__ = False

    def __init__(
        self, app: App, broker: MemoryBroker, options: WorkerOptions, instruments: Sequence[Instrument]
    ) -> None:
        self.app = app
        self.broker = broker
        self.outcomes: list[Outcome] = []
        self.failures: list[BaseException] = []
        """What handlers raised, in order."""
        self.status = Status(app=app.name)
        self.stopper = Stop()
        """`request()` it as a signal would: once to drain, twice to hand back at once."""
        self.handlers = select_handlers(app, options)
        self.runner: Runner = make_runner(
            app,
            self.handlers,
            options,
            connect=broker.session,
            stop=self.stopper,
            status=self.status,
            instruments=[_Recorder(self), *instruments],
        )
        self._running = asyncio.Event()
        self._task: asyncio.Task[int] | None = None

    async def produce(
        self, station: str, payload: object, headers: Mapping[str, str] | None = None, msg_id: str | None = None
    ) -> None:
        """As `app.produce`: stored and confirmed when it returns."""
        await self.app.produce(station, payload, headers=headers, msg_id=msg_id)

    async def drained(self, timeout_s: float = 600.0) -> None:
        """Returns when every handler's group has nothing left, redeliveries included; raises what ended the worker.

        In virtual time a pause of minutes between two attempts takes none.
        """
        task = self._started()
        waiting = asyncio.ensure_future(self.broker.until(self._nothing_left, timeout_s))
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                task.result()
                raise AssertionError(f"the worker stopped and has not finished: {self._left()}")
            try:
                waiting.result()
            except TimeoutError:
                raise AssertionError(f"not drained after {timeout_s:g} s: {self._left()}") from None
        finally:
            waiting.cancel()

    async def stop(self, *, at_once: bool = False) -> int:
        """As one TERM signal, or two. Returns the exit code; raises what ended the worker."""
        if not self.stopper.requested.is_set():
            self.stopper.request("test")
        if at_once:
            self.stopper.request("test")
        return await self.ended()

    async def ended(self) -> int:
        """The exit code, when it has ended by itself; raises what ended it."""
        return await asyncio.shield(self._started())

    def dead_letters(self, station: str = DEAD_STATION) -> list[DeadLetter]:
        """What was recorded, in order."""
        stream = self.broker.streams.get(station)
        return [] if stream is None else [_dead_letter(m.headers, m.data) for m in stream.messages.values()]

    # ------------------------------------------------------------------- life

    async def start(self) -> None:
        """Returns when it runs; raises what kept it from starting."""
        self._task = asyncio.create_task(self.runner.run(), name="worker under test")
        running = asyncio.ensure_future(self._running.wait())
        try:
            await asyncio.wait({self._task, running}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                self._task.result()
        finally:
            running.cancel()

    async def end(self) -> None:
        """Stops it if nobody has; what ended it is not raised here again."""
        task = self._started()
        if not task.done():
            self.stopper.request("end of the test")
        await asyncio.wait({task})

    def is_running(self) -> None:
        self._running.set()

    def _started(self) -> asyncio.Task[int]:
        if self._task is None:
            raise MemphisWorkerError("the worker was not started; use `async with running(app) as worker`")
        return self._task

    def _nothing_left(self) -> bool:
        return all(self.broker.group(each.station, each.group).idle for each in self.handlers)

    def _left(self) -> str:
        groups = [(each.station, self.broker.station(each.station).groups.get(each.group)) for each in self.handlers]
        return "; ".join(
            f"{station}/{group.name}: {len(group.waiting)} waiting, {len(group.flying)} in flight"
            for station, group in groups
            if group is not None
        )


@contextlib.asynccontextmanager
async def running(
    app: App,
    *,
    broker: MemoryBroker | None = None,
    instruments: Sequence[Instrument] = (),
    options: WorkerOptions | None = None,
) -> AsyncIterator[TestWorker]:
    """Runs the app until the block ends. Several workers may share a broker: each is a process of its own."""
    worker = TestWorker(app, broker or MemoryBroker(), options or WorkerOptions(), instruments)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.end()


class _Recorder(Instrument):
    def __init__(self, worker: TestWorker) -> None:
        self._worker = worker

    def finished(self, handler: Handler, message: Message, outcome: str, duration_s: float) -> None:
        self._worker.outcomes.append(
            Outcome(
                handler=handler.name,
                sequence=message.sequence,
                deliveries=message.deliveries,
                outcome=outcome,
                duration_s=duration_s,
            )
        )

    def failed(self, handler: Handler, message: Message, error: BaseException) -> None:
        self._worker.failures.append(error)

    def state_changed(self, state: str) -> None:
        if state == "running":
            self._worker.is_running()


def _dead_letter(raw: bytes, data: bytes) -> DeadLetter:
    headers = parse_headers(raw)

    def own(name: str) -> str:
        return headers.get(PREFIX + name, "")

    return DeadLetter(
        station=own("station"),
        group=own("group"),
        handler=own("handler"),
        reason=own("reason"),
        error=own("error"),
        deliveries=int(own("deliveries") or 0),
        sequence=int(own("sequence") or 0),
        data=data,
        headers=headers,
    )
