"""A consumer: one member of a group that gets messages by callback, by `fetch` or by iteration.

Longer than most: the three ways share one life (created, getting messages, closed or destroyed) and its errors.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass, field, replace

from memphis_worker.client.control.plane import ControlPlane, Pullable
from memphis_worker.client.fetch import Fetch, give_back
from memphis_worker.client.jetstream import consumer_info
from memphis_worker.client.message import Message
from memphis_worker.client.operation import Operation, Operations
from memphis_worker.client.transport import Subscription, Transport
from memphis_worker.errors import (
    BrokerRefused,
    ConnectionClosed,
    Disconnected,
    InvalidOption,
    MemphisWorkerError,
    Missing,
    RequestTimeout,
    UsageError,
)
from memphis_worker.failure import failure
from memphis_worker.log import get_logger
from memphis_worker.options import BATCH_MAX, GroupOptions

__all__ = ["Consumer", "ConsumerOptions"]

log = get_logger(__name__)

#: `await callback(messages, error)`: messages, or an empty list and what went wrong.
Callback = Callable[[list[Message], MemphisWorkerError | None], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How a consumer pulls, besides what its group's delivery depends on."""

    pull_interval_ms: int = 1000
    """From the start of one pull to the start of the next [ms]."""
    batch_size: int = 10
    """The most messages of one pull."""
    batch_max_time_to_wait_ms: int = 5000
    """How long a pull waits when there is no message [ms]."""
    group: GroupOptions = field(default_factory=GroupOptions)

    def __post_init__(self) -> None:
        if self.pull_interval_ms < 0:
            raise InvalidOption(f"pull_interval_ms is {self.pull_interval_ms}; it must be 0 or more")
        if self.batch_max_time_to_wait_ms < 1:
            raise InvalidOption(f"batch_max_time_to_wait_ms is {self.batch_max_time_to_wait_ms}; it must be 1 or more")
        _check_batch(self.batch_size)


class Consumer:
    """Made by `Memphis.consumer`, which has started to create it: await it, or the first use waits.

    As a context manager it is confirmed on entry; leaving stops it, and the group keeps its progress and its member.
    """

    def __init__(
        self,
        operations: Operations,
        plane: ControlPlane,
        transport: Transport,
        station: str,
        name: str,
        group: str,
        options: ConsumerOptions,
    ) -> None:
        self._operations = operations
        self._plane = plane
        self._transport = transport
        self.station_name = station
        self.consumer_name = name
        self.consumer_group = group
        self._options = options
        self._created: Operation | None = None
        self._destroyed: Operation | None = None
        self._fetch: Fetch | None = None
        self._pullable: Pullable | None = None
        self._subscription: Subscription | None = None
        self._resent: deque[Message] = deque()
        self._resent_came = asyncio.Event()
        self._calling = asyncio.Lock()
        self._stopped = asyncio.Event()
        self._gone: MemphisWorkerError | None = None
        self._consuming: asyncio.Task[None] | None = None
        self._caller: asyncio.Task[object] | None = None

    def __repr__(self) -> str:
        return f"<Consumer {self.consumer_name} of {self.station_name}/{self.consumer_group}>"

    def __await__(self) -> Generator[object, None, Consumer]:
        return self._confirmed().__await__()

    async def __aenter__(self) -> Consumer:
        return await self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def start(self) -> None:
        """Starts to create it at the broker; `Memphis.consumer` has done so."""
        self._created = self._operations.start(
            f"create consumer {self.consumer_name!r} of station {self.station_name!r}", self._join
        )

    # ---------------------------------------------------------- getting messages

    def consume(self, callback: Callback) -> Consumer:
        """Calls `callback(messages, error)` for each pull with messages, one call at a time, until `destroy()`.

        Every `pull_interval_ms` it pulls up to `batch_size` messages. An idle station calls nothing. An error comes
        with an empty list: once for an outage, after which it goes on; or as the last call, when the consumer could
        not be created, the group was destroyed or the connection was given up. An exception in the callback is logged
        and ends nothing. Returns the consumer: awaiting it raises what creating it raised.
        Raises UsageError when it consumes already; Missing after `destroy()`, ConnectionClosed after `close()`.
        """
        self._check()
        if self._consuming is not None:
            raise UsageError(f"{self!r} consumes already; one callback at a time")
        self._consuming = asyncio.get_running_loop().create_task(
            self._consume(callback), name=f"consume {self.station_name}/{self.consumer_group}"
        )
        self._consuming.add_done_callback(self._consumed)
        return self

    async def fetch(self, batch_size: int | None = None) -> list[Message]:
        """Up to `batch_size` messages (default: the consumer's own), and those that Memphis has sent again.

        Returns at once when there are any, else waits up to `batch_max_time_to_wait_ms`; none is an empty list.
        Raises Missing (destroyed, by us or others), Disconnected, ConnectionClosed, BrokerRefused.
        """
        self._check()
        batch = self._options.batch_size if batch_size is None else batch_size
        _check_batch(batch)
        fetch = await self._ready()
        if self._resent:
            return self._take_resent(batch)
        messages = await fetch.fetch(batch, self._options.batch_max_time_to_wait_ms / 1000)
        self._check()
        return messages or self._take_resent(batch)

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Message by message, until it is closed or destroyed; what was fetched and not reached is given back."""
        while not self._stopped.is_set():
            try:
                batch = deque(await self.fetch())
            except (ConnectionClosed, Missing):
                if self._stopped.is_set():
                    return
                raise
            try:
                while batch:
                    yield batch.popleft()
            finally:
                give_back(batch)

    # -------------------------------------------------------------------- ending

    def destroy(self) -> Operation:
        """Gets no more messages from now on, and leaves the group; its last member takes its progress along.

        Starts at once; awaitable. Messages in hand may still be acked. Raises, when awaited: Missing, BrokerRefused,
        and the error of its own creation.
        """
        self.stop(Missing(f"{self!r} was destroyed; make a new consumer"))
        if self._destroyed is None:
            self._destroyed = self._operations.start(
                f"destroy consumer {self.consumer_name!r} of station {self.station_name!r}", self._leave
            )
        return self._destroyed

    async def close(self) -> None:
        """Gets no more messages, and waits for the callback that runs; member and group stay. Never raises."""
        self.stop(ConnectionClosed(f"{self!r} was closed; make a new consumer"))
        if self._consuming is not None and not self._inside:
            await asyncio.wait({self._consuming})

    def stop(self, why: MemphisWorkerError) -> None:
        """Gets no more messages; a callback that runs goes on. What is called later raises `why`."""
        self._gone = self._gone or why
        self._stopped.set()
        self._resent_came.set()
        if self._fetch is not None:
            self._fetch.stop()
        if self._subscription is not None:
            self._subscription.unsubscribe()
            self._subscription = None

    async def end(self, timeout_s: float) -> None:
        """`close()`, but a callback that takes longer than this is cancelled."""
        self.stop(ConnectionClosed(f"{self!r} was closed with its connection"))
        consuming = self._consuming
        if consuming is None or self._inside:
            return
        _, late = await asyncio.wait({consuming}, timeout=timeout_s)
        if late:
            log.warning("callback.cancelled", consumer=repr(self), after_s=timeout_s)
            consuming.cancel()
            await asyncio.wait({consuming})

    # ----------------------------------------------------------------- consuming

    async def _consume(self, callback: Callback) -> None:
        try:
            fetch = await self._ready()
        except MemphisWorkerError as exc:
            await self._call(callback, [], exc)
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver_resent(callback), name=f"resent {self!r}")
            await self._deliver(callback, fetch)

    async def _deliver(self, callback: Callback, fetch: Fetch) -> None:
        time = asyncio.get_running_loop().time
        told = False
        while not self._stopped.is_set():
            begun = time()
            try:
                messages = await fetch.fetch(self._options.batch_size, self._options.batch_max_time_to_wait_ms / 1000)
            except (Disconnected, RequestTimeout) as exc:
                if not told and not self._stopped.is_set():
                    told = True
                    await self._call(callback, [], exc)
            except MemphisWorkerError as exc:
                if not self._stopped.is_set():
                    log.error("consumer.ended", consumer=repr(self), error=str(exc))
                    self.stop(exc)
                    await self._call(callback, [], exc)
                return
            else:
                told = False
                if messages:
                    await self._call(callback, messages, None)
            await self._pause(begun + self._options.pull_interval_ms / 1000 - time())

    async def _deliver_resent(self, callback: Callback) -> None:
        while True:
            await self._resent_came.wait()
            self._resent_came.clear()
            if self._stopped.is_set():
                return
            while self._resent:
                await self._call(callback, self._take_resent(self._options.batch_size), None)

    async def _call(self, callback: Callback, messages: list[Message], error: MemphisWorkerError | None) -> None:
        async with self._calling:
            if messages and self._stopped.is_set():
                give_back(messages)
                return
            self._caller = asyncio.current_task()
            try:
                await callback(messages, error)
            except (Exception, asyncio.CancelledError) as exc:
                if isinstance(exc, asyncio.CancelledError) and self._caller is not None and self._caller.cancelling():
                    raise
                # A CancelledError that nobody meant for us is its own: it awaited something that was cancelled.
                log.error("callback.failed", consumer=repr(self), messages=len(messages), **failure(exc))
            finally:
                self._caller = None

    def _consumed(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if not self._stopped.is_set():
                log.error(
                    "consumer.ended", consumer=repr(self), error="its task was cancelled; close the consumer first"
                )
        elif (exc := task.exception()) is not None:
            log.error("consumer.ended", consumer=repr(self), error=type(exc).__name__, **failure(exc))

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._stopped.wait()
            except TimeoutError:
                pass

    @property
    def _inside(self) -> bool:
        """Whether the caller is our own callback: waiting for it would never end."""
        return asyncio.current_task() is self._caller is not None

    # ------------------------------------------------------------------- joining

    async def _confirmed(self) -> Consumer:
        assert self._created is not None
        await self._created
        return self

    async def _ready(self) -> Fetch:
        """Waits for its creation, and listens for what Memphis sends again."""
        await self._confirmed()
        assert self._pullable is not None
        if self._fetch is None:
            pullable, station, group = self._pullable, self.station_name, self.consumer_group
            self._fetch = Fetch(self._transport, pullable, station=station, group=group)
            subject = pullable.resent_subject
            if self._stopped.is_set():
                self._fetch.stop()
            elif subject is not None:
                self._subscription = await self._transport.subscribe(subject, self._take_back, queue=subject)
        return self._fetch

    async def _join(self) -> None:
        joined = await self._plane.create_consumer(
            self.station_name, self.consumer_name, self.consumer_group, self._options.group
        )
        pullable = joined[0]
        try:
            # An existing group has its own ack wait, and classic Memphis says yes even without a durable.
            info = await consumer_info(self._transport, pullable.stream, pullable.durable)
        except Missing as exc:
            raise BrokerRefused(
                f"the broker took {self!r}, but did not make its group in the stream; "
                "destroy the consumer and create it again"
            ) from exc
        self._pullable = replace(pullable, ack_wait_s=info.ack_wait_s, max_deliver=info.max_deliver)

    async def _leave(self) -> None:
        await self._confirmed()
        await self._plane.destroy_consumer(self.station_name, self.consumer_name)

    def _take_back(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        fetch = self._fetch
        if fetch is not None and not self._stopped.is_set():
            self._resent.append(Message(fetch, subject, reply, headers, payload, fetch.time()))
            self._resent_came.set()

    def _take_resent(self, batch: int) -> list[Message]:
        return [self._resent.popleft() for _ in range(min(batch, len(self._resent)))]

    def _check(self) -> None:
        if self._gone is not None:
            raise type(self._gone)(str(self._gone))


def _check_batch(size: int) -> None:
    if not 1 <= size <= BATCH_MAX:
        raise InvalidOption(f"batch_size is {size}; it must be from 1 to {BATCH_MAX}")
