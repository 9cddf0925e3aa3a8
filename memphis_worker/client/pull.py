"""The continuous pull of one stream: a window of messages kept full, whatever happens to the server.

One inbox for each epoch (a connection, or what follows a silence), one reply subject for each request, so that a
status names its request. `Window` keeps the credit, `status` says what a status means; here is the life of the stream:
epochs, frames, pauses, silence, drain. One class over 250 lines, because each of them may make it ask or stop asking.
The rules are those of docs/delivery.md; facts about the server were measured on nats-server 2.15.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable

from memphis_worker.client.budget import ByteBudget
from memphis_worker.client.control.plane import Pullable
from memphis_worker.client.headers import status_of
from memphis_worker.client.jetstream import consumer_info
from memphis_worker.client.message import Message
from memphis_worker.client.status import FORGETTING, Action, action_of, returned
from memphis_worker.client.transport import Subscription, Transport
from memphis_worker.client.window import Request, Window
from memphis_worker.errors import BrokerError, BrokerRefused, MemphisWorkerError, Missing, RequestTimeout
from memphis_worker.log import get_logger

__all__ = ["PullStream"]

log = get_logger(__name__)

EXPIRES_MAX_S = 10.0
HEARTBEAT_MAX_S = 2.0
BACKOFF_S = (0.1, 5.0)
MISSING_AFTER_S = 30.0
RESENT_MAX = 1000
LAG_S = 0.05
SILENCE_S = 0.25
ARRIVE_S = 1.0
FIRST_WITH_HEARTBEATS = (2, 9, 0)


class PullStream:
    """Pulls from one durable and hands over batches. `run()` is its life; everything else is plain calls.

    It is the `Origin` of its messages: settling one frees its place in the window.
    """

    def __init__(
        self,
        transport: Transport,
        pullable: Pullable,
        *,
        station: str,
        group: str,
        deliver: Callable[[list[Message]], None],
        concurrency: int,
        budget: ByteBudget,
        batch_max: int | None = None,
        expires_s: float = EXPIRES_MAX_S,
    ) -> None:
        self.transport = transport
        self.station = station
        self.group = group
        self.stream = pullable.stream
        self.durable = pullable.durable
        self.ack_wait_s = pullable.ack_wait_s
        self._resent_subject = pullable.resent_subject
        self._deliver = deliver
        self._budget = budget
        self.expires_s = min(expires_s, EXPIRES_MAX_S, max(1.0, pullable.ack_wait_s))
        self.heartbeat_s = min(HEARTBEAT_MAX_S, self.expires_s / 2)

        self.window = Window(concurrency, pullable.ack_wait_s, batch_max)
        self.pending = 0
        self.epochs = 0
        self.stalled = False
        self.error: BrokerError | None = None
        self._number = 0
        self._batch: list[Message] = []
        self._batch_time = 0.0
        self._subscription: Subscription | None = None
        self._resent: Subscription | None = None
        self._inbox = b""
        self._connection = 0
        self._asking = True  # Set here: a stop_asking() that comes before run() must not be erased.
        self._fresh = False
        self._check = False
        self._work: asyncio.Event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # set by run()
        self._timer: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self._lag = 0.0
        self._heard = False
        self._last_heard = 0.0
        self._missed = 0
        self._not_before = 0.0
        self._pause = 0.0
        self._unanswered_since: float | None = None
        self._warned: set[str] = set()
        self._armed = False
        self._arrival: asyncio.Event = asyncio.Event()

    def __repr__(self) -> str:
        window = self.window
        return f"<PullStream {self.stream}/{self.durable} held={window.held} out={window.out} live={len(window.live)}>"

    @property
    def _name(self) -> str:
        return f"the group {self.group!r} of station {self.station!r}"

    # ------------------------------------------------------------- life

    async def run(self) -> None:
        """Pulls until it is cancelled, or the group is gone for good (then `error` says why)."""
        self._loop = asyncio.get_running_loop()
        self.window.since = self._loop.time()
        end = self.transport.on_change(self._on_connection)
        checking: asyncio.Task[None] | None = None
        try:
            if self._resent_subject is not None:
                self._resent = await self.transport.subscribe(
                    self._resent_subject, self._on_resent, queue=self._resent_subject
                )
            self._arm_tick()
            self._on_connection()
            while self.error is None:
                await self._work.wait()
                self._work.clear()
                if self.transport.connected and (self._fresh or self._connection != self.transport.epoch):
                    await self._open_epoch()
                if self._check and (checking is None or checking.done()):
                    self._check = False
                    # Beside this loop: a reconnect meanwhile must not wait for an answer that was lost with the wire.
                    checking = asyncio.create_task(self._check_consumer(), name=f"look up {self.station}/{self.group}")
        finally:
            end()
            if checking is not None:
                checking.cancel()
            self._asking = False
            if self._timer is not None:
                self._timer.cancel()

    def stop_asking(self) -> None:
        """No more pulls; what was asked for still arrives."""
        self._asking = False

    async def arrived(self) -> None:
        """Returns when nothing asked for is on its way: no request is open, or 0.25 s are silent; at most 1 s.

        Draining at once would strand messages in a cluster: an UNSUB does not pass the consumer's leader.
        """
        until = self._loop.time() + ARRIVE_S
        with contextlib.suppress(TimeoutError):
            while self.window.live and self.transport.connected and (left := until - self._loop.time()) > 0:
                self._arrival.clear()
                async with asyncio.timeout(min(SILENCE_S, left)):
                    await self._arrival.wait()

    async def drain(self, timeout_s: float) -> None:
        """Ends the interest, so that all that is on the wire has been handed over. Never a plain unsubscribe."""
        subscription, self._subscription = self._subscription, None
        resent, self._resent = self._resent, None
        both = [each for each in (subscription, resent) if each is not None]
        await asyncio.gather(*(self.transport.drain(each, timeout_s) for each in both))
        self._hand_over()

    # ------------------------------------------------------------- epochs

    def _on_connection(self) -> None:
        if self._connection != self.transport.epoch or not self.transport.connected:
            self.window.forget()
        self._work.set()

    async def _open_epoch(self) -> None:
        """A fresh inbox: requests of the old one lose their interest and die, so credit restarts at exactly zero."""
        self._fresh = False
        if self._connection != self.transport.epoch:
            self._connection = self.transport.epoch
            self._missed = 0
        old, self._subscription = self._subscription, None
        if old is not None:
            old.unsubscribe()
        self.window.forget()
        self.epochs += 1
        inbox = f"_INBOX.{random.getrandbits(96):024x}"
        self._subscription = await self.transport.subscribe(f"{inbox}.*", self._on_frame)
        self._inbox = inbox.encode() + b"."
        self._last_heard = self._loop.time()
        self._not_before = 0.0
        self._pull()

    def _end(self, error: BrokerError) -> None:
        if self.error is None:
            self.error = error
            self._asking = False
            self._work.set()

    # ------------------------------------------------------------- asking

    def _pull(self) -> None:
        if not self._asking or self._subscription is None or not self.transport.connected:
            return
        if self._connection != self.transport.epoch or self._loop.time() < self._not_before:
            return
        if not self._budget.open:
            self._budget.waiting.add(self._pull)
            return
        if batch := self.window.wanted():
            self._ask(batch)

    def _ask(self, batch: int) -> None:
        request: dict[str, int] = {"batch": batch, "expires": int(self.expires_s * 1e9)}
        if not self.window.one_message:
            request["max_bytes"] = self._budget.share(self.transport.max_payload)
        if self._heartbeats:
            request["idle_heartbeat"] = int(self.heartbeat_s * 1e9)
        self._number += 1
        deadline = self._loop.time() + self.expires_s + max(1.0, self.heartbeat_s)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.durable}".encode()
        body = json.dumps(request, separators=(",", ":")).encode()
        if self.transport.publish_now(subject, body, self._inbox + b"%d" % self._number):
            self.window.asked(self._number, Request(batch, deadline))

    @property
    def _heartbeats(self) -> bool:
        return self.transport.server_version >= FIRST_WITH_HEARTBEATS

    # ------------------------------------------------------------- arriving

    def _on_frame(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self._heard = True
        if headers and headers[8:9] == b" " and not reply:  # with a reply it is a user's message that looks like one
            self._on_status(subject, headers)
            return
        if not self._batch:
            # What came while the loop was blocked may have been delivered when the block began.
            self._batch_time = self._loop.time() - self._lag
            self._loop.call_soon(self._hand_over)
        message = Message(self, subject, reply, headers, payload, self._batch_time)
        self._batch.append(message)
        self._budget.held += message.size
        window = self.window
        window.held += 1
        if window.out > 1:
            window.out -= 1
        else:
            # A filled request ends in silence: nothing more comes from any of them.
            window.forget()

    def _on_resent(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        window = self.window
        if window.resent >= RESENT_MAX:
            self._warn("message.resent_dropped", "more resent messages than fit; send them again later")
            return
        message = Message(self, subject, b"", headers, payload, self._loop.time())
        window.resent += 1
        window.held += 1
        self._budget.held += message.size
        if not self._batch:
            self._batch_time = message.received_s
            self._loop.call_soon(self._hand_over)
        self._batch.append(message)

    def _hand_over(self) -> None:
        batch = self._batch
        self._arrival.set()
        if batch:
            self._batch = []
            if batch[-1].reply:
                self.pending = batch[-1].partition_pending
            self._warned.discard("503")
            self._pause = 0.0
            self.window.one_request = self.window.one_message = False
            self._unanswered_since = None
            self._deliver(batch)
            self._pull()

    # ------------------------------------------------------------- settling

    def time(self) -> float:
        return self._loop.time()

    def settled(self, message: Message) -> None:
        window = self.window
        window.held -= 1
        window.settled += 1
        self._budget.held -= message.size
        if not message.reply:
            window.resent -= 1
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self._after_settled)

    def _after_settled(self) -> None:
        self._armed = False
        self.window.measure(self._loop.time())
        self._pull()
        if self._budget.waiting and self._budget.open:
            self._budget.wake()

    # ------------------------------------------------------------- statuses

    def _on_status(self, subject: bytes, headers: bytes) -> None:
        code, text = status_of(headers)
        action = action_of(code, text)
        if action is Action.NOTHING:
            return
        self._arrival.set()
        token = subject[len(self._inbox) :]
        number = int(token) if token.isdigit() else 0
        request, unused = self.window.live.get(number), returned(headers)
        if action in FORGETTING:
            self.window.forget_until(number)
        else:
            self.window.ended(number, unused)
        match action:
            case Action.ASK_ALONE if request is not None:
                if self.window.held == 0:
                    self.window.one_message = True
                elif unused == request.batch:
                    # Too large for any pull of ours: alone, once nothing is held. Asking at once would be a hot loop.
                    self._pause_for(0.25)
            case Action.ASK_THE_NEW_LEADER if request is not None:
                log.info("pull.leader_changed", station=self.station, consumer_group=self.group)
            case Action.ASK_LATER:
                log.info("pull.server_stopping", station=self.station, consumer_group=self.group)
                self._pause_for(0.25)
            case Action.ASK_ONCE:
                self.window.one_request = True
                self._warn(text, "too many open pulls on this group; raise max_waiting or run fewer workers")
                self._back_off()
            case Action.ASK_LESS:
                self._clamp(text)
            case Action.UNANSWERED:
                self._warn("503", "no consumer leader answers; asking again")
                self._unanswered()
            case Action.UNKNOWN:
                self._warn(f"{code} {text}".rstrip(), "unknown status; asking again")
                self._unanswered()
            case Action.END_MISSING:
                self._end(
                    Missing(f"{self._name} was deleted while it was consumed; it is not made again, or it would replay")
                )
            case Action.END_REFUSED:
                self._end(BrokerRefused(f"{self._name} cannot be pulled from: {code} {text}"))
        self._pull()

    def _unanswered(self) -> None:
        now = self._loop.time()
        if self._unanswered_since is None:
            self._unanswered_since = now
        elif now - self._unanswered_since > MISSING_AFTER_S:
            self._unanswered_since = now
            self._check = True
            self._work.set()
        self._back_off()

    def _clamp(self, text: str) -> None:
        number = text.rpartition(" ")[2]
        if text.startswith("Exceeded MaxRequestBatch") and number.isdigit():
            self.window.batch_max = int(number)
        elif text.startswith("Exceeded MaxRequestExpires"):
            self.expires_s = max(0.1, self.expires_s / 2)
            self.heartbeat_s = min(self.heartbeat_s, self.expires_s / 2)
        else:
            self.window.one_message = True
        self._warn(text, "asking for less")

    def _back_off(self) -> None:
        self._pause = min(BACKOFF_S[1], max(BACKOFF_S[0], self._pause * 2))
        self._pause_for(self._pause)

    def _pause_for(self, seconds: float) -> None:
        seconds *= random.uniform(0.5, 1.5)  # noqa: S311
        self._not_before = self._loop.time() + seconds
        self._loop.call_later(seconds + 0.001, self._pull)

    def _warn(self, key: str, advice: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("pull.error", station=self.station, consumer_group=self.group, error=key, advice=advice)

    # ------------------------------------------------------------- silence

    def _arm_tick(self) -> None:
        period = self.heartbeat_s / 2
        self._tick_due = self._loop.time() + period
        self._timer = self._loop.call_later(period, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        late = now - self._tick_due
        self._lag = late if late > LAG_S else 0.0
        if self._heard or not self.window.live or not self.transport.connected:
            self._last_heard = now
            if self._heard:
                self._missed = 0
                self.stalled = False
            self._heard = False
        self.window.expire(now)
        limit = 2 * self.heartbeat_s if self._heartbeats else self.expires_s + 1.0
        if self.window.live and now - self._last_heard >= limit and late <= self.heartbeat_s:
            self._silent(now)
        self._pull()
        self._arm_tick()

    def _silent(self, now: float) -> None:
        self._missed += 1
        self._last_heard = now
        log.info("pull.silent", station=self.station, consumer_group=self.group, times=self._missed)
        if self._missed >= 2:
            self._check = True
        if self._missed >= 3:
            self.stalled = True
            log.error(
                "consumer.stalled",
                station=self.station,
                consumer_group=self.group,
                held=self.window.held,
                times=self._missed,
            )
        self._fresh = True
        self._work.set()

    async def _check_consumer(self) -> None:
        """Whether the group is there at all. A group that is missing gets no answer to a pull on Memphis."""
        epoch = self.transport.epoch
        try:
            await consumer_info(self.transport, self.stream, self.durable)
        except Missing as exc:
            self._end(Missing(f"{self._name} is gone: {exc}"))
        except RequestTimeout:
            if self.transport.connected and self.transport.epoch == epoch:
                log.warning("broker.silent", station=self.station, action="reconnect")
                await self.transport.reconnect()
        except MemphisWorkerError as exc:
            self._warn(str(exc), "cannot look the group up")
