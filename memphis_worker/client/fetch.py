"""Batched pulls from one durable, each on an inbox of its own, one at a time.

A fetch first takes what is there (`no_wait`); only when that is nothing does it wait, for one message, and then takes
what came along. So a message is handed over at once, and every request ends at the server: none stays open that
could deliver into an inbox nobody reads. Statuses and hazards as measured on nats-server 2.15.1 (and 2.8.4: an older
server may leave a `no_wait` pull without any answer).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterable

from memphis_worker.client.connected import until_connected
from memphis_worker.client.control.plane import Pullable
from memphis_worker.client.headers import status_of
from memphis_worker.client.jetstream import consumer_info
from memphis_worker.client.message import Message
from memphis_worker.client.status import Action, action_of
from memphis_worker.client.transport import Transport
from memphis_worker.errors import BrokerError, BrokerRefused, Missing, NotReachable, RequestTimeout

__all__ = ["Fetch", "give_back"]

_NO_WAIT_ANSWER_S = 1.0
_EXPIRY_MARGIN_S = 1.0
_HEARTBEAT_MAX_S = 2.0
_LEAST_WAIT_S = 0.05
_DRAIN_S = 1.0
_BACKOFF_S = (0.1, 1.0)
_FIRST_WITH_HEARTBEATS = (2, 9, 0)


class Fetch:
    """Pulls for one member of a group; the `Origin` of its messages."""

    def __init__(self, transport: Transport, pullable: Pullable, *, station: str, group: str) -> None:
        self.transport = transport
        self.stream = pullable.stream
        self.station = station
        self.group = group
        self.ack_wait_s = pullable.ack_wait_s
        self._durable = pullable.durable
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{pullable.stream}.{pullable.durable}".encode()
        self._one_at_a_time = asyncio.Lock()
        self._running: _Pull | None = None
        self._stopped = False

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def settled(self, message: Message) -> None:
        pass

    def stop(self) -> None:
        """Ends a fetch that runs: it gives back what it has got, and returns nothing. For good."""
        self._stopped = True
        if self._running is not None:
            self._running.ended.set()

    async def fetch(self, batch: int, wait_s: float) -> list[Message]:
        """Up to `batch` messages: at once if there are any, else the first within `wait_s`, else none.

        Raises Missing (the group is gone), BrokerRefused, Disconnected, ConnectionClosed.
        """
        async with self._one_at_a_time:
            messages: list[Message] = []
            try:
                await self._fill(messages, batch, wait_s)
            except BaseException:
                give_back(messages)
                raise
            if self._stopped:
                give_back(messages)
                return []
            return messages

    async def _fill(self, messages: list[Message], batch: int, wait_s: float) -> None:
        deadline = self.time() + wait_s
        backoff = _BACKOFF_S[0]
        while not self._stopped:
            await until_connected(self.transport, max(_LEAST_WAIT_S, deadline - self.time()))
            pull = await self._pull(batch, None, messages)
            left = deadline - self.time()
            if pull.idle and left >= _LEAST_WAIT_S:
                pull = await self._pull(1, left, messages)
                if messages and batch > 1:
                    await self._pull(batch - 1, None, messages)
                elif pull.silent:  # a server before 2.9 gives no answer at all for a group that is gone
                    await self._look_up()
            if messages:
                return
            if not pull.idle:
                await self._explain(pull)
                await asyncio.sleep(min(backoff, max(0.0, deadline - self.time())))
                backoff = min(backoff * 2, _BACKOFF_S[1])
            if self.time() >= deadline:
                return

    async def _pull(self, batch: int, wait_s: float | None, messages: list[Message]) -> _Pull:
        """One request until it ends: `wait_s` seconds at the server, or with `None` only what is there.

        What comes is added to `messages` as it comes: it is theirs whatever happens here.
        """
        transport = self.transport
        inbox = f"_INBOX.{secrets.token_hex(11)}"
        request: dict[str, object] = {"batch": batch}
        if wait_s is None:
            request["no_wait"] = True
            patience = _NO_WAIT_ANSWER_S
        else:
            request["expires"] = int(wait_s * 1e9)
            patience = wait_s + _EXPIRY_MARGIN_S
        heartbeat = min(_HEARTBEAT_MAX_S, (wait_s or 0) / 2)
        beating = heartbeat >= 0.1 and transport.server_version >= _FIRST_WITH_HEARTBEATS
        if beating:
            request["idle_heartbeat"] = int(heartbeat * 1e9)
        pull = _Pull(self, batch, messages)
        subscription = await transport.subscribe(inbox, pull.take)
        self._running = pull
        epoch = transport.epoch
        unwatch = transport.on_change(lambda: pull.ended.set() if self._interrupted(epoch) else None)
        try:
            if self._stopped or not transport.publish_now(self._subject, json.dumps(request).encode(), inbox.encode()):
                pull.ended.set()
            await pull.wait(patience, 2 * heartbeat if beating else None)
            if not pull.whole and transport.connected:
                # The request may still be open at the server: what is on the wire belongs to this fetch.
                await transport.drain(subscription, _DRAIN_S)
        finally:
            self._running = None
            unwatch()
            subscription.unsubscribe()
        return pull

    def _interrupted(self, epoch: int) -> bool:
        return self.transport.epoch != epoch or not self.transport.connected

    async def _explain(self, pull: _Pull) -> None:
        """Why a pull without messages ended: raises what ends the group, returns for what may pass."""
        if pull.error is not None:
            raise pull.error
        if pull.code == 503:
            await self._look_up()

    async def _look_up(self) -> None:
        """Raises Missing when the group is gone."""
        if not self.transport.connected:
            return
        try:
            await consumer_info(self.transport, self.stream, self._durable, timeout_s=_DRAIN_S)
        except (RequestTimeout, NotReachable, BrokerRefused):  # no leader, or JetStream not up yet
            return


class _Pull:
    """What came for one request, and how it ended."""

    __slots__ = ("_batch", "_fetch", "_heard", "_messages", "_text", "code", "ended", "got")

    def __init__(self, fetch: Fetch, batch: int, messages: list[Message]) -> None:
        self._fetch = fetch
        self._batch = batch
        self._heard = fetch.time()
        self._text = ""
        self._messages = messages
        self.got = 0
        self.ended = asyncio.Event()
        self.code = 0

    def take(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self._heard = self._fetch.time()
        code, text = status_of(headers)
        if code == 100:
            return
        if code:
            self.code, self._text = code, text
            self.ended.set()
            return
        self._messages.append(Message(self._fetch, subject, reply, headers, payload, self._heard))
        self.got += 1
        if self.got >= self._batch:
            self.ended.set()

    async def wait(self, patience_s: float, silence_s: float | None) -> None:
        """Until it has ended, or the time is over, or nothing at all came for `silence_s`."""
        begun = self._heard
        while not self.ended.is_set():
            limit = begun + patience_s
            if silence_s is not None:
                limit = min(limit, self._heard + silence_s)
            if self._fetch.time() >= limit:
                return
            try:
                async with asyncio.timeout_at(limit):
                    await self.ended.wait()
            except TimeoutError:
                continue

    @property
    def whole(self) -> bool:
        """Whether the server has surely ended the request."""
        return self.code != 0 or self.got >= self._batch

    @property
    def idle(self) -> bool:
        """Whether it ended as a request without messages does, or (old servers) without a word."""
        return self.silent or (not self.got and self.code in (404, 408))

    @property
    def silent(self) -> bool:
        """Whether the whole time passed without a word."""
        return not self.got and self.code == 0 and not self.ended.is_set()

    @property
    def error(self) -> BrokerError | None:
        """For an end that no second attempt can change."""
        where = f"consumer group {self._fetch.group!r} of station {self._fetch.station!r}"
        match action_of(self.code, self._text):
            case Action.END_MISSING:
                return Missing(f"{where} was destroyed, or its station was; create the consumer again")
            case Action.END_REFUSED:
                return BrokerRefused(f"{where} cannot be pulled from: {self._text}")
            case _:
                return None


def give_back(messages: Iterable[Message]) -> None:
    """Lets the group have them again at once."""
    for message in messages:
        message.settle_nak()
