"""One delivery of one message: its body, its headers, and the one answer that the broker gets for it."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Protocol

from memphis_worker.client.headers import parse_headers
from memphis_worker.client.transport import Transport

__all__ = ["LEASE_SHARE", "Message", "Origin"]

#: The part of the ack wait in which an answer other than +ACK is still safe: acks are not fenced, so a late -NAK or
#: +TERM would hit whoever holds the message by then (measured on nats-server 2.15.1).
LEASE_SHARE = 0.9
#: The longest pause that -NAK takes: beyond an int64 of nanoseconds the server would redeliver at once.
DELAY_MAX_S = 100 * 365 * 86_400
INT64_MAX = 2**63 - 1


class Origin(Protocol):
    """Where a message came from, and who wants to know when it is settled."""

    transport: Transport
    stream: str
    group: str
    station: str
    ack_wait_s: float

    def time(self) -> float:
        """Monotonic seconds."""

    def settled(self, message: Message) -> None:
        """Called once, when the message has got its answer or will get none."""


class Message:
    """One delivery. Made by the client; read it, and settle it once.

    In a handler of the worker the worker settles it: on return, on an exception, on a timeout.
    """

    __slots__ = (
        "_headers",
        "_origin",
        "_parsed",
        "_reply",
        "_subject",
        "answer",
        "data",
        "deliveries",
        "lease_end",
        "partition_pending",
        "received_s",
        "sequence",
        "settled",
        "size",
        "stored_ns",
    )

    def __init__(
        self, origin: Origin, subject: bytes, reply: bytes, headers: bytes, data: bytes, received_s: float
    ) -> None:
        self._origin = origin
        self._subject = subject
        self._reply = reply
        self._headers = headers
        self._parsed: dict[str, str] | None = None
        self.data = data
        self.size = len(subject) + len(reply) + len(headers) + len(data)
        self.settled = False
        self.answer = ""
        self.received_s = received_s
        # What an operator sent again has no lease: nobody else will ever get it.
        self.lease_end = received_s + LEASE_SHARE * origin.ack_wait_s if reply else math.inf
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer seq>.<stored ns>.<pending>, since 2.x with
        # <domain>.<account hash> behind ACK and a random token at the end (nats-server consumer.go, ADR-15).
        tokens = reply.split(b".")
        if len(tokens) > 9:
            tokens = tokens[2:]
        try:
            self.deliveries = int(tokens[4])
            self.sequence = sequence = int(tokens[5])
            self.stored_ns = stored_ns = int(tokens[7])
            self.partition_pending = int(tokens[8])
            if not 0 <= stored_ns <= INT64_MAX or sequence > INT64_MAX:  # The worker notes them in 64 bits.
                raise ValueError
        except (IndexError, ValueError):
            self.deliveries = 1
            self.sequence = self.stored_ns = self.partition_pending = 0

    def __repr__(self) -> str:
        return (
            f"<Message {self.station}/{self.group} sequence={self.sequence} deliveries={self.deliveries} "
            f"bytes={len(self.data)}>"
        )

    # ------------------------------------------------------------------ reading

    def get_data(self) -> bytes:
        """The body, untouched."""
        return self.data

    def json(self) -> object:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.data)

    @property
    def subject(self) -> str:
        return self._subject.decode("utf-8", "replace")

    @property
    def headers(self) -> dict[str, str]:
        """The headers, parsed when first asked for."""
        if self._parsed is None:
            self._parsed = parse_headers(self._headers)
        return self._parsed

    def get_headers(self) -> dict[str, str]:
        """The same as `headers`."""
        return self.headers

    @property
    def raw_headers(self) -> bytes:
        """The header block as it came, or `b""`."""
        return self._headers

    @property
    def station(self) -> str:
        return self._origin.station

    @property
    def group(self) -> str:
        return self._origin.group

    @property
    def stream(self) -> str:
        return self._origin.stream

    @property
    def stored_at(self) -> datetime:
        """When the broker stored it (UTC)."""
        return datetime.fromtimestamp(self.stored_ns / 1e9, UTC)

    @property
    def leased(self) -> bool:
        """Whether it is surely still ours: an answer other than +ACK is allowed."""
        return self._origin.time() < self.lease_end

    @property
    def resent(self) -> bool:
        """Whether the broker's operator sent it again by hand: there is nothing to ack."""
        return not self._reply

    # ----------------------------------------------------------------- settling

    async def ack(self) -> None:
        """Done: the group never gets it again. Also allowed late."""
        self.settle_ack()

    async def nak(self, delay_s: float = 0) -> bool:
        """Not done: the group gets it again, not before `delay_s` seconds.

        False when nothing was sent, because the lease is over or the connection is down; the broker then delivers
        it again by itself, after the ack wait.
        """
        return self.settle_nak(delay_s)

    async def reject(self, reason: str = "") -> bool:
        """Never again: the group does not get it back, and nothing is recorded. False as for `nak`."""
        return self.settle_term(reason)

    async def extend(self) -> bool:
        """Still working: the ack wait starts anew. False as for `nak`."""
        return self.extend_lease()

    # What the awaitable names above do; plain functions, for the worker's own use.

    def settle_ack(self) -> None:
        if not self.settled:
            self.settled = True
            self.answer = "ack"
            try:
                if self._reply:
                    self._origin.transport.publish(self._reply)
            finally:
                self._origin.settled(self)

    def settle_nak(self, delay_s: float = 0) -> bool:
        if delay_s > 0:
            return self._settle_leased("nak", b'-NAK {"delay":%d}' % int(min(delay_s, DELAY_MAX_S) * 1e9))
        return self._settle_leased("nak", b"-NAK")

    def settle_term(self, reason: str = "") -> bool:
        # The reason stays here: a server before 2.10.4 takes `+TERM reason` for an unknown verb and ignores it.
        return self._settle_leased("term", b"+TERM")

    def extend_lease(self) -> bool:
        if self.settled or not self.leased:
            return False
        if not self._reply:
            return True
        now = self._origin.time()
        if not self._origin.transport.publish_now(self._reply, b"+WPI"):
            return False
        self.lease_end = now + LEASE_SHARE * self._origin.ack_wait_s
        return True

    def renew(self, copy: Message) -> None:
        """Takes over the reply and the lease of a later delivery of the same message, which is then dropped."""
        self._reply = copy._reply
        self.lease_end = copy.lease_end
        self.deliveries = copy.deliveries
        copy.drop()

    def drop(self) -> None:
        """Answers nothing: the broker delivers it again after the ack wait."""
        if not self.settled:
            self.settled = True
            self._origin.settled(self)

    def _settle_leased(self, answer: str, verb: bytes) -> bool:
        if self.settled:
            return False
        self.settled = True
        self.answer = answer
        try:
            return self.leased and (not self._reply or self._origin.transport.publish_now(self._reply, verb))
        finally:
            self._origin.settled(self)

    @property
    def reply(self) -> bytes:
        """Where the answer goes; empty for a resent message."""
        return self._reply
