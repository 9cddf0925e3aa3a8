"""The transport of production: nats-py connects, reconnects and keeps subscriptions; frames and writes are ours.

`nats_dial` connects, `nats_parser` is the one hook that makes it fast: it finds all frames of a read and hands them to
their sinks without a task, a queue or a parsed header. It is installed where this nats-py has the parts it needs
(`can_hook`); elsewhere the public callbacks do the same work, slower. No other file of the client imports nats-py.
Over 250 lines, because all that is here shares the one client that the watchdog may replace.

Guards against nats-py 2.16:

- its `flush()`, `rtt()` and `drain()` kill the read loop when they time out: never called here;
- its PING goes out before pending publishes: ours are written first (`barrier`);
- a header block beyond `max_payload` closes the client for good: checked before anything is written;
- a client that is closed, or connected and deaf, is replaced or reconnected by a 1 Hz watchdog.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from memphis_worker.client.control.plane import DataPlane
from memphis_worker.client.headers import encode_headers, parse_headers
from memphis_worker.client.nats_dial import PENDING_BYTES, dial
from memphis_worker.client.nats_parser import BatchParser, can_hook
from memphis_worker.client.transport import Frame, Sink, Subscription
from memphis_worker.errors import (
    BrokerRefused,
    ConnectionClosed,
    Disconnected,
    MemphisWorkerError,
    PayloadTooLarge,
    RequestTimeout,
)
from memphis_worker.failure import failure
from memphis_worker.log import get_logger

__all__ = ["NatsTransport"]

log = get_logger(__name__)

WATCH_S = 1.0


class NatsTransport:
    """A `Transport` over nats-py. Made unconnected; `connect()` makes the first connection or raises."""

    def __init__(
        self,
        data_plane: DataPlane,
        *,
        reconnect: bool = True,
        max_reconnect: int = -1,
        reconnect_interval_s: float = 0.25,
        timeout_s: float = 5.0,
        raw_frames: bool | None = None,
    ) -> None:
        self._plane = data_plane
        self._reconnect = reconnect
        self._max_reconnect = max_reconnect
        self._interval_s = reconnect_interval_s
        self._timeout_s = timeout_s
        self._raw = raw_frames
        self._nc: Client | None = None
        self._loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # set by connect()
        self._sinks: dict[bytes, Sink] = {}
        self._subscriptions: set[_Subscription] = set()
        self._callbacks: list[Callable[[], None]] = []
        self._out: list[bytes] = []
        self._unhooked: asyncio.Queue[tuple[bytes, bytes, bytes, bytes]] | None = None
        self._waiting_bytes = 0
        """What waits for a connection, or without the hook for its turn."""
        self._replies: dict[bytes, asyncio.Future[Frame]] = {}
        self._inbox = b""
        self._request_number = 0
        self._earlier_epochs = 0
        self._seen: tuple[bool, bool, int] = (False, False, 0)
        self._closing = False
        self._gave_up = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._rebuilding = False
        self._max_payload = 1024 * 1024

    def __repr__(self) -> str:
        return f"<NatsTransport {', '.join(self._plane.servers)} connected={self.connected}>"

    # -------------------------------------------------------------- connection

    async def connect(self) -> None:
        """Makes the first connection. Raises NotReachable, AuthenticationFailed, BrokerRefused."""
        self._loop = asyncio.get_running_loop()
        self._nc = await self._dial()
        self._max_payload = self._nc.max_payload
        self._inbox = self._nc.new_inbox().encode() + b"."
        await self.subscribe((self._inbox + b"*").decode(), self._on_reply)
        self._watch = self._loop.call_later(WATCH_S, self._look)
        self._notice()

    @property
    def connected(self) -> bool:
        return self._nc is not None and self._nc.is_connected and not self._rebuilding

    @property
    def closed(self) -> bool:
        return self._closing or self._gave_up

    @property
    def epoch(self) -> int:
        reconnects = self._nc.stats["reconnects"] if self._nc is not None else 0
        return self._earlier_epochs + 1 + reconnects

    @property
    def max_payload(self) -> int:
        return self._max_payload

    @property
    def server_version(self) -> tuple[int, int, int]:
        text = str(self._nc._server_info.get("version", "")) if self._nc is not None else ""
        numbers = [int(n) for n in re.findall(r"\d+", text)[:3]]
        major, minor, patch = (*numbers, 0, 0, 0)[:3]
        return major, minor, patch

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

        return end

    async def reconnect(self) -> None:
        if self._nc is not None and self.connected:
            await self._nc.force_reconnect()
            self._notice()

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._watch is not None:
            self._watch.cancel()
        with contextlib.suppress(Exception):
            self._flush()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        if self._nc is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout_s):
                    await self._nc.close()
        for future in self._replies.values():
            if not future.done():
                future.set_exception(
                    ConnectionClosed("the connection was closed while a request waited for its answer")
                )
                future.exception()
        self._notice()

    async def _dial(self) -> Client:
        nc = Client()
        if self._raw is None:
            self._raw = can_hook(nc)
        if self._raw:
            nc._ps = BatchParser(nc, self._sinks)
        elif self._unhooked is None:
            self._unhooked = asyncio.Queue()
            self._spawn(self._write_unhooked(self._unhooked), "nats.write")
        await dial(
            nc,
            self._plane,
            on_change=self._notice,
            reconnect=self._reconnect,
            max_reconnect=self._max_reconnect,
            interval_s=self._interval_s,
            timeout_s=self._timeout_s,
        )
        return nc

    def _look(self) -> None:
        """The watchdog: a client that closed itself is replaced, one that is connected and deaf reconnects."""
        if self._closing:
            return
        self._watch = self._loop.call_later(WATCH_S, self._look)
        nc = self._nc
        assert nc is not None
        reading, reconnecting = getattr(nc, "_reading_task", None), getattr(nc, "_reconnection_task", None)
        if nc.is_connected and not nc.is_draining and reading is not None and reading.done():
            log.warning("broker.deaf", action="reconnect")
            self._spawn(self.reconnect(), "nats.reconnect")
        elif nc.is_reconnecting and reconnecting is not None and reconnecting.done() and not self._rebuilding:
            self._rebuild()
        self._notice()

    def _notice(self) -> None:
        """Tells the callbacks what changed since the last time. Never raises: nats-py would not survive it."""
        nc = self._nc
        if nc is not None and nc.is_closed and not self._closing and not self._gave_up and not self._rebuilding:
            if self._reconnect and self._max_reconnect < 0:
                self._rebuild()
            else:
                self._gave_up = True
        now = (self.connected, self.closed, self.epoch)
        if now == self._seen:
            return
        self._seen = now
        self._flush()
        for callback in list(self._callbacks):
            try:
                callback()
            except Exception as exc:  # noqa: BLE001
                log.error("transport.callback_failed", **failure(exc))

    def _rebuild(self) -> None:
        self._rebuilding = True
        self._spawn(self._replace_client(), "nats.rebuild")

    async def _replace_client(self) -> None:
        old = self._nc
        assert old is not None
        log.warning("broker.client_replaced", error=str(old.last_error or "")[:200])
        with contextlib.suppress(Exception):
            await old.close()
        pause = self._interval_s
        while True:
            try:
                new = await self._dial()
                break
            except MemphisWorkerError as exc:
                log.debug("broker.connect_failed", error=str(exc))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(5.0, pause * 2)
        self._earlier_epochs += old.stats["reconnects"] + 1
        self._nc = new
        self._max_payload = new.max_payload
        self._sinks.clear()
        for subscription in list(self._subscriptions):
            try:
                await self._attach(subscription)
            except BrokerRefused as exc:
                log.error("broker.subscription_lost", subject=subscription.subject, error=str(exc))
        self._rebuilding = False
        self._notice()

    def _spawn(self, work: Any, name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ----------------------------------------------------------------- writing

    def publish(self, subject: bytes, payload: bytes = b"", reply: bytes = b"", headers: bytes = b"") -> None:
        size = len(payload) + len(headers)
        if size > self._max_payload:
            raise PayloadTooLarge(
                f"the message for {subject.decode(errors='replace')} has {size} bytes with its headers; "
                f"the broker takes {self._max_payload}"
            )
        if not self._seen[0]:
            self._check_writable(size)
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        if not headers:
            if reply:
                out.append(b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, size, payload))
            else:
                out.append(b"PUB %b %d\r\n%b\r\n" % (subject, size, payload))
        elif reply:
            out.append(b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, len(headers), size, headers, payload))
        else:
            out.append(b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(headers), size, headers, payload))
        if self._unhooked is not None:
            out.pop()
            self._unhooked.put_nowait((subject, payload, reply, headers))
            self._waiting_bytes += size

    def publish_now(self, subject: bytes, payload: bytes = b"", reply: bytes = b"", headers: bytes = b"") -> bool:
        if not self.connected:
            return False
        try:
            self.publish(subject, payload, reply, headers)
        except (Disconnected, ConnectionClosed):  # `connected` is ahead of what was told, which `publish` goes by
            return False
        self._flush()
        return True

    def _check_writable(self, size: int) -> None:
        if self.closed:
            raise ConnectionClosed("the connection is closed")
        if self._waiting_bytes + size > PENDING_BYTES:
            raise Disconnected(f"the connection is down and {PENDING_BYTES} bytes wait for it already")
        if self._unhooked is None:
            self._waiting_bytes += size

    def _flush(self) -> None:
        """Writes what waits. While there is no connection it stays here, and outlives the client that lost it."""
        out, nc = self._out, self._nc
        if not out or nc is None or not self.connected or not nc._transport:
            return
        # Through nats-py's own list, so that a SUB that it holds goes out before the pull that needs it.
        pending, nc._pending = [*nc._pending, b"".join(out)], []
        nc._pending_data_size = 0
        out.clear()
        self._waiting_bytes = 0
        try:
            nc._transport.writelines(pending)
        except (OSError, RuntimeError, AttributeError) as exc:  # the socket is going: its reconnect says so
            log.debug("broker.write_failed", error=str(exc))

    async def _write_unhooked(self, queue: asyncio.Queue[tuple[bytes, bytes, bytes, bytes]]) -> None:
        while True:
            subject, payload, reply, headers = await queue.get()
            self._waiting_bytes -= len(payload) + len(headers)
            nc = self._nc
            if nc is None:
                continue
            try:
                named = parse_headers(headers) if headers else None
                await nc.publish(subject.decode(), payload, reply.decode(), named)
            except NatsError as exc:
                log.warning("broker.write_failed", error=str(exc))

    # ------------------------------------------------------------- subscribing

    async def subscribe(self, subject: str, sink: Sink, queue: str = "") -> Subscription:
        if self.closed:
            raise ConnectionClosed("the connection is closed")
        subscription = _Subscription(self, subject, queue, sink)
        self._subscriptions.add(subscription)
        await self._attach(subscription)
        return subscription

    async def _attach(self, subscription: _Subscription) -> None:
        assert self._nc is not None
        try:
            sub = await self._nc.subscribe(
                subscription.subject,
                queue=subscription.queue,
                cb=_public_callback(subscription.sink),
                pending_msgs_limit=0,
                pending_bytes_limit=0,
            )
        except NatsError as exc:
            if self._nc.is_closed:  # the rebuild attaches it again
                return
            raise BrokerRefused(f"cannot subscribe to {subscription.subject!r}: {exc}") from exc
        subscription.sub = sub
        if self._raw:
            subscription.sid = b"%d" % sub._id
            self._sinks[subscription.sid] = subscription.sink

    def _detach(self, subscription: _Subscription) -> None:
        self._subscriptions.discard(subscription)
        self._sinks.pop(subscription.sid, None)
        if subscription.sub is not None and not self.closed:
            self._spawn(_quietly(subscription.sub.unsubscribe), "nats.unsubscribe")

    async def drain(self, subscription: Subscription, timeout_s: float) -> None:
        assert isinstance(subscription, _Subscription)
        if self.connected and self._unhooked is None:
            self._out.append(b"UNSUB %b\r\n" % subscription.sid)
            await self.barrier(timeout_s)
        elif self.connected and subscription.sub is not None:
            await asyncio.wait(
                {self._loop.create_task(_quietly(subscription.sub.drain))},
                timeout=timeout_s,
            )
        self._detach(subscription)

    async def barrier(self, timeout_s: float) -> bool:
        if not self.connected:
            return False
        assert self._nc is not None
        if self._unhooked is not None:
            return await self._echo(timeout_s)
        self._flush()
        answered: asyncio.Future[bool] = self._loop.create_future()
        await self._nc._send_ping(answered)
        # Waited for, never cancelled: nats-py would set a result on a cancelled future and stop reading.
        done, _ = await asyncio.wait({answered}, timeout=timeout_s)
        return bool(done)

    async def _echo(self, timeout_s: float) -> bool:
        try:
            await self.request((self._inbox + b"echo").decode(), b"", timeout_s=timeout_s, _token=b"echo")
        except MemphisWorkerError:
            return False
        return True

    # -------------------------------------------------------------- requesting

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: bytes = b"", timeout_s: float, _token: bytes | None = None
    ) -> Frame:
        self._request_number += 1
        token = _token or b"%d" % self._request_number
        future: asyncio.Future[Frame] = self._loop.create_future()
        self._replies[token] = future
        try:
            self.publish(subject.encode(), payload, b"" if _token else self._inbox + token, headers)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            state = "" if self.connected else "; the connection is down"
            raise RequestTimeout(f"{subject}: no answer within {timeout_s:g} s{state}") from None
        finally:
            self._replies.pop(token, None)

    def _on_reply(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        future = self._replies.get(subject[len(self._inbox) :])
        if future is not None and not future.done():
            future.set_result(Frame(subject, reply, headers, payload))


class _Subscription:
    def __init__(self, transport: NatsTransport, subject: str, queue: str, sink: Sink) -> None:
        self._transport = transport
        self.subject = subject
        self.queue = queue
        self.sink = sink
        self.sid = b""
        self.sub: NatsSubscription | None = None

    def unsubscribe(self) -> None:
        self._transport._detach(self)


def _public_callback(sink: Sink) -> Callable[[Msg], Awaitable[None]]:
    """The same frames through nats-py's public callbacks: for a nats-py without the hook's parts."""

    async def callback(msg: Msg) -> None:
        headers = dict(msg.headers or {})
        status, text = headers.pop("Status", ""), headers.pop("Description", "")
        block = encode_headers((k, v.replace("\r", " ").replace("\n", " ")) for k, v in headers.items())
        if status:
            line = f"NATS/1.0 {status} {text}".rstrip().encode()
            block = line + (block[8:] if block else b"\r\n\r\n")
        sink(msg.subject.encode(), msg.reply.encode(), block, msg.data)

    return callback


async def _quietly(work: Callable[[], Awaitable[None]]) -> None:
    # A function, not its coroutine: a task that is cancelled before it began would leave that one unawaited.
    with contextlib.suppress(NatsError, OSError):
        await work()
