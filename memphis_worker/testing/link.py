"""A connection in memory: the client's end is a `Transport`, and between the ends are two queues that faults act on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from memphis_worker.client.transport import Frame, Sink, Subscription
from memphis_worker.errors import BrokerRefused, ConnectionClosed, Disconnected, PayloadTooLarge, RequestTimeout
from memphis_worker.failure import failure
from memphis_worker.log import get_logger

if TYPE_CHECKING:
    from memphis_worker.testing.memory import MemoryBroker

__all__ = ["Link", "MemoryTransport"]

log = get_logger(__name__)

PENDING_BYTES = 8 * 1024 * 1024
_numbers = itertools.count(1)


class Link:
    """One connection. What is in its queues when it is cut is lost, as on a wire."""

    def __init__(self, broker: MemoryBroker, transport: MemoryTransport) -> None:
        self.transport = transport
        self.alive = True
        self.silent = False
        """Swallows everything, both ways, and neither end knows."""
        self.subscriptions: dict[int, tuple[list[bytes], str]] = {}
        """What the server knows: number -> tokens of the subject, queue."""
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._up: deque[tuple[Any, ...]] = deque()
        self._down: deque[Callable[[], None]] = deque()

    def write(self, *operation: Any) -> None:
        """From the client."""
        if not self._up:
            self._later(self._arrive)
        self._up.append(operation)

    def send(self, deliver: Callable[[], None]) -> None:
        """From the server."""
        if not self._down:
            self._later(self._hand)
        self._down.append(deliver)

    def cut(self) -> None:
        self.alive = False
        self.subscriptions.clear()
        self._up.clear()
        self._down.clear()

    def _later(self, call: Callable[[], None]) -> None:
        if self._broker.latency_s > 0:
            self._loop.call_later(self._broker.latency_s, call)
        else:
            self._loop.call_soon(call)

    def _arrive(self) -> None:
        arrived, self._up = self._up, deque()
        for operation in arrived:
            if self.alive and not self.silent:
                self._broker.handle(self, *operation)

    def _hand(self) -> None:
        arrived, self._down = self._down, deque()
        for deliver in arrived:
            if self.alive and not self.silent:
                try:
                    deliver()
                except Exception as exc:  # noqa: BLE001
                    log.error("transport.sink_failed", **failure(exc))


class _Subscription:
    def __init__(self, transport: MemoryTransport, subject: str, queue: str, sink: Sink) -> None:
        self.number = next(_numbers)
        self.subject = subject
        self.queue = queue
        self.sink = sink
        self._transport = transport

    def unsubscribe(self) -> None:
        self._transport.forget(self)


class MemoryTransport:
    """A `Transport` to a MemoryBroker. It reconnects `reconnect_s` after a cut, and then until the broker is up."""

    def __init__(self, broker: MemoryBroker, *, reconnect_s: float = 0.1) -> None:
        self.reconnect_s = reconnect_s
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = Link(broker, self)
        self._epoch = 1
        self._closed = False
        self._callbacks: list[Callable[[], None]] = []
        self._buffer: list[tuple[Any, ...]] = []
        self._buffered = 0
        self._subscriptions: dict[int, _Subscription] = {}
        self._inbox = f"_INBOX.reply{next(_numbers)}."
        self._replies: dict[bytes, asyncio.Future[Frame]] = {}
        self._again: asyncio.TimerHandle | None = None
        broker.links.append(self._link)
        self._add(_Subscription(self, self._inbox + "*", "", self._on_reply))

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def max_payload(self) -> int:
        return self._broker.max_payload

    @property
    def server_version(self) -> tuple[int, int, int]:
        return self._broker.server_version

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

        return end

    def publish(self, subject: bytes, payload: bytes = b"", reply: bytes = b"", headers: bytes = b"") -> None:
        size = len(payload) + len(headers)
        if size > self.max_payload:
            raise PayloadTooLarge(f"{size} bytes with headers; the broker takes {self.max_payload}")
        if self._closed:
            raise ConnectionClosed("the connection is closed")
        operation = ("pub", subject, reply, headers, payload)
        if self._link is not None:
            self._link.write(*operation)
            return
        if self._buffered + size > PENDING_BYTES:
            raise Disconnected(f"the connection is down and {PENDING_BYTES} bytes wait for it already")
        self._buffered += size
        self._buffer.append(operation)

    def publish_now(self, subject: bytes, payload: bytes = b"", reply: bytes = b"", headers: bytes = b"") -> bool:
        if self._link is None:
            return False
        self.publish(subject, payload, reply, headers)
        return True

    async def subscribe(self, subject: str, sink: Sink, queue: str = "") -> Subscription:
        if self._closed:
            raise ConnectionClosed("the connection is closed")
        if self._broker.denied and subject.startswith(self._broker.denied):
            raise BrokerRefused(f"cannot subscribe to {subject!r}: permissions violation")
        subscription = _Subscription(self, subject, queue, sink)
        self._add(subscription)
        return subscription

    async def request(self, subject: str, payload: bytes = b"", *, headers: bytes = b"", timeout_s: float) -> Frame:
        token = b"%d" % next(_numbers)
        future: asyncio.Future[Frame] = self._loop.create_future()
        self._replies[token] = future
        try:
            self.publish(subject.encode(), payload, self._inbox.encode() + token, headers)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise RequestTimeout(f"{subject}: no answer within {timeout_s:g} s") from None
        finally:
            del self._replies[token]

    async def drain(self, subscription: Subscription, timeout_s: float) -> None:
        assert isinstance(subscription, _Subscription)
        if self._link is not None:
            self._link.write("unsub", subscription.number)
            await self.barrier(timeout_s)
        self._subscriptions.pop(subscription.number, None)

    async def barrier(self, timeout_s: float) -> bool:
        if self._link is None:
            return False
        answered = asyncio.Event()
        self._link.write("ping", answered.set)
        try:
            async with asyncio.timeout(timeout_s):
                await answered.wait()
        except TimeoutError:
            return False
        return True

    async def reconnect(self) -> None:
        self.drop()

    async def close(self) -> None:
        if not self._closed:
            link = self._link
            await self.barrier(1.0)
            self._closed = True
            self._link = None
            if self._again is not None:
                self._again.cancel()
            if link is not None:
                link.cut()
            self._notify()

    # ------------------------------------------------------------- the wire

    def drop(self) -> None:
        """The connection breaks. The server sees it at once, unless the link was silent: then it keeps its end."""
        link, self._link = self._link, None
        if link is None:
            return
        if not link.silent:
            link.cut()
        self._buffer.clear()
        self._buffered = 0
        self._again = self._loop.call_later(self.reconnect_s, self._connect)
        self._notify()

    def deliver(self, number: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        """What the link calls for each frame."""
        subscription = self._subscriptions.get(number)
        if subscription is not None:
            subscription.sink(subject, reply, headers, payload)

    def forget(self, subscription: _Subscription) -> None:
        self._subscriptions.pop(subscription.number, None)
        if self._link is not None:
            self._link.write("unsub", subscription.number)

    def _add(self, subscription: _Subscription) -> None:
        self._subscriptions[subscription.number] = subscription
        if self._link is not None:
            self._link.write("sub", subscription.number, subscription.subject, subscription.queue)

    def _connect(self) -> None:
        self._again = None
        if not self._broker.up:
            self._again = self._loop.call_later(self.reconnect_s, self._connect)
            return
        self._link = Link(self._broker, self)
        self._broker.links.append(self._link)
        self._epoch += 1
        for subscription in self._subscriptions.values():
            self._link.write("sub", subscription.number, subscription.subject, subscription.queue)
        buffer, self._buffer, self._buffered = self._buffer, [], 0
        for operation in buffer:
            self._link.write(*operation)
        self._notify()

    def _notify(self) -> None:
        for callback in list(self._callbacks):
            self._loop.call_soon(callback)

    def _on_reply(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        future = self._replies.get(subject[len(self._inbox) :])
        if future is not None and not future.done():
            future.set_result(Frame(subject, reply, headers, payload))
