"""One consumer group as the server keeps it: what waits, what is in flight, the open pulls, and the four answers.

Behaviour as measured on nats-server 2.15.1 (docs/delivery.md). Not modelled: priority groups, pauses, replicas.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Answer", "Durable", "Stored", "Wire"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the stream keeps it."""

    subject: bytes
    headers: bytes
    data: bytes
    sequence: int
    stored_ns: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that reached the server, in the order of arrival."""

    group: str
    sequence: int
    deliveries: int
    """Of the delivery that it answers: an earlier one than the current is stale."""
    verb: str
    """`+ACK`, `-NAK`, `+WPI` or `+TERM`."""
    delay_s: float
    time: float


class Wire(Protocol):
    """What a durable sees of the broker."""

    server_version: tuple[int, int, int]

    def interested(self, to: bytes) -> bool: ...

    def send(self, to: bytes, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None: ...

    def changed(self) -> None: ...


@dataclass(slots=True)
class _Pull:
    reply: bytes
    batch: int
    bytes_left: int | None
    no_wait: bool
    heartbeat_s: float
    timers: list[asyncio.TimerHandle]

    def end(self) -> None:
        for timer in self.timers:
            timer.cancel()


@dataclass(slots=True)
class _Flight:
    deliveries: int
    timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Durable:
    """Serves pulls in turn; redelivers after the ack wait, and what was nak'd after its delay."""

    def __init__(
        self,
        wire: Wire,
        messages: dict[int, Stored],
        stream: str,
        name: str,
        *,
        ack_wait_s: float,
        max_deliver: int,
        filter_subject: str = "",
    ) -> None:
        self._wire = wire
        self._messages = messages
        self._loop = asyncio.get_running_loop()
        self.stream = stream
        self.name = name
        self.ack_wait_s = ack_wait_s
        self.max_deliver = max_deliver
        self.filter_subject = filter_subject
        self.waiting: deque[int] = deque()
        self.flying: dict[int, _Flight] = {}
        self.again: deque[int] = deque()
        self.pulls: deque[_Pull] = deque()
        self.deliveries: dict[int, int] = {}
        """How often each sequence was delivered, ever."""
        self.answers: list[Answer] = []
        self.requests: list[dict[str, int]] = []
        """Every pull that arrived, as it was asked."""
        self.exhausted: list[int] = []
        """What used up `max_deliver`: never delivered again, and recorded nowhere."""
        self.members: list[str] = []
        # Knobs of a test.
        self.refusal = ""
        """The status that every pull gets at once, `503` say."""
        self.mute = False
        """Pulls are swallowed."""
        self.loses_answers = False
        self.says_completed = True
        """Whether a filled pull with max_bytes ends in `409 Batch Completed`, or in silence."""
        self.max_waiting = 512
        self.max_batch = 0
        self.max_ack_pending = -1
        self._delivered = 0
        self.ack_floor = 0
        self._undone: dict[int, int] = {}

    # ------------------------------------------------------------------ asking

    @property
    def asked(self) -> int:
        """What open pulls may still bring."""
        return sum(pull.batch for pull in self.pulls)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.flying

    def pull(self, reply: bytes, body: bytes) -> None:
        asked = json.loads(body) if body else {}
        self.requests.append(asked)
        if self.mute:
            return
        heartbeat_s, expires_s = asked.get("idle_heartbeat", 0) / 1e9, asked.get("expires", 0) / 1e9
        batch = asked.get("batch", 1)
        if self.refusal:
            self._status(reply, self.refusal)
        elif heartbeat_s > expires_s / 2:
            self._status(reply, "400 Bad Request - heartbeat value too large")
        elif 0 < self.max_batch < batch:
            self._status(reply, f"409 Exceeded MaxRequestBatch of {self.max_batch}")
        elif len(self.pulls) >= self.max_waiting:
            if not heartbeat_s or self._wire.server_version < (2, 11, 0):
                self._status(reply, "409 Exceeded MaxWaiting")
        else:
            pull = _Pull(reply, batch, asked.get("max_bytes"), asked.get("no_wait", False), heartbeat_s, [])
            self.pulls.append(pull)
            if expires_s:
                pull.timers.append(self._loop.call_later(expires_s, self._expired, pull))
            self._beat(pull)
            self.serve()

    def end_pulls(self, status: str) -> None:
        """All open pulls end: with this status, or without a word."""
        while self.pulls:
            self._end(self.pulls[0], status)

    def _beat(self, pull: _Pull) -> None:
        if pull.heartbeat_s:
            pull.timers[1:] = [self._loop.call_later(pull.heartbeat_s, self._heartbeat, pull)]

    def _heartbeat(self, pull: _Pull) -> None:
        self._status(pull.reply, f"100 Idle Heartbeat\r\nNats-Last-Consumer: {self._delivered}")
        self._beat(pull)

    def _expired(self, pull: _Pull) -> None:
        self._end(pull, "408 Request Timeout", pending=True)

    def _end(self, pull: _Pull, status: str, *, pending: bool = False) -> None:
        pull.end()
        self.pulls.remove(pull)
        if status:
            left = f"\r\nNats-Pending-Messages: {pull.batch}\r\nNats-Pending-Bytes: {pull.bytes_left or 0}"
            self._status(pull.reply, status + (left if pending else ""))
        self._wire.changed()

    def _status(self, reply: bytes, status: str) -> None:
        self._wire.send(reply, reply, b"", f"NATS/1.0 {status}\r\n\r\n".encode(), b"")

    # ----------------------------------------------------------------- serving

    def offer(self, sequence: int) -> None:
        """A message of the stream that this group wants."""
        self.waiting.append(sequence)
        self.serve()

    def serve(self) -> None:
        """Delivers what can be delivered."""
        while self.pulls:
            message = self._next()
            if message is None:
                break
            pull = self._turn()
            if pull is None:
                break
            if not self._deliver(pull, message):
                continue
            (self.again if self.again and self.again[0] == message.sequence else self.waiting).popleft()
        for pull in [pull for pull in self.pulls if pull.no_wait]:
            self._end(pull, "404 No Messages", pending=True)
        self._wire.changed()

    def _next(self) -> Stored | None:
        for queue in (self.again, self.waiting):
            if queue is self.waiting and 0 < self.max_ack_pending <= len(self.flying):
                return None
            while queue:
                message = self._messages.get(queue[0])
                if message is not None:
                    return message
                self._gone(queue.popleft())
        return None

    def _turn(self) -> _Pull | None:
        """The pull whose turn it is. One that nobody listens to any more dies here, and not before."""
        while self.pulls:
            pull = self.pulls[0]
            if self._wire.interested(pull.reply):
                self.pulls.rotate(-1)
                return pull
            self._end(pull, "")
        return None

    def _deliver(self, pull: _Pull, message: Stored) -> bool:
        count = self.deliveries.get(message.sequence, 0) + 1
        reply = (
            f"$JS.ACK.{self.stream}.{self.name}.{count}.{message.sequence}.{self._delivered + 1}."
            f"{message.stored_ns}.{max(0, len(self.waiting) - 1)}"
        ).encode()
        size = len(message.subject) + len(reply) + len(message.headers) + len(message.data)
        if pull.bytes_left is not None and size > pull.bytes_left:
            self._end(pull, "409 Message Size Exceeds MaxBytes", pending=True)
            return False
        self._delivered += 1
        self.deliveries[message.sequence] = count
        flight = self.flying.setdefault(message.sequence, _Flight(count))
        flight.deliveries = count
        self._lease(message.sequence, flight, self.ack_wait_s)
        self._wire.send(pull.reply, message.subject, reply, message.headers, message.data)
        pull.batch -= 1
        if pull.bytes_left is not None:
            pull.bytes_left -= size
        if pull.batch == 0:
            says = pull.bytes_left is not None and self.says_completed
            self._end(pull, "409 Batch Completed" if says else "", pending=True)
        else:
            self._beat(pull)
        return True

    def _lease(self, sequence: int, flight: _Flight, seconds: float) -> None:
        flight.stop()
        flight.timer = self._loop.call_later(seconds, self._due, sequence)

    def _due(self, sequence: int) -> None:
        flight = self.flying[sequence]
        flight.timer = None
        if 0 < self.max_deliver <= flight.deliveries:
            self.exhausted.append(sequence)
            self._gone(sequence)
        else:
            self.again.append(sequence)
        self.serve()

    def _gone(self, sequence: int) -> None:
        flight = self.flying.pop(sequence, None)
        if flight is not None:
            flight.stop()
        if sequence in self.again:
            self.again.remove(sequence)
        self.ack_floor = min([*self.flying, *self.waiting], default=max(self._messages, default=0) + 1) - 1

    # --------------------------------------------------------------- answering

    def answer(self, sequence: int, deliveries: int, payload: bytes) -> None:
        """As the server does it, without a fence: the answer of a stale delivery counts too."""
        verb, _, rest = payload.partition(b" ")
        delay_s = 0.0
        if verb == b"-NAK" and rest:
            delay = json.loads(rest)["delay"]
            # Beyond an int64 the server cannot read it, and takes it for a plain -NAK.
            delay_s = delay / 1e9 if delay < 2**63 else 0.0
        if verb == b"+TERM" and rest and self._wire.server_version < (2, 10, 4):
            return
        name = verb.decode() or "+ACK"
        if self.loses_answers:
            return
        self.answers.append(Answer(self.name, sequence, deliveries, name, delay_s, self._loop.time()))
        flight = self.flying.get(sequence)
        if flight is None:
            return
        match name:
            case "+ACK" | "+TERM":
                self._undone[sequence] = flight.deliveries
                self._gone(sequence)
                self.serve()
            case "+WPI":
                if sequence not in self.again:
                    self._lease(sequence, flight, self.ack_wait_s)
            case "-NAK" if delay_s > 0:
                if sequence not in self.again:
                    self._lease(sequence, flight, delay_s)
            case "-NAK":
                flight.stop()
                if sequence not in self.again:
                    self._due(sequence)
        self._wire.changed()

    def forget_acks(self, count: int) -> None:
        """The last acks were never written to the disk: their messages come again, counted from the start."""
        for sequence in list(self._undone)[len(self._undone) - count :]:
            self.deliveries[sequence] = 0
            self.flying[sequence] = _Flight(0)
            self.again.append(sequence)
            del self._undone[sequence]
        self.serve()

    def of(self, verb: str) -> Iterator[Answer]:
        """The answers of one kind."""
        return (answer for answer in self.answers if answer.verb == verb)

    def close(self) -> None:
        """Every timer ends."""
        for flight in self.flying.values():
            flight.stop()
        for pull in self.pulls:
            pull.end()
