"""The one seam to the broker's data plane: the few verbs of core NATS.

Production has one implementation (`nats_transport`), the testing kit another (`memphis_worker.testing.memory`).
Subjects, replies and headers are bytes as they are on the wire: nothing is decoded before somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

__all__ = ["NO_RESPONDERS", "Frame", "Sink", "Subscription", "Transport"]

NO_RESPONDERS = b"NATS/1.0 503"

#: `sink(subject, reply, headers, payload)`. Called in the order of arrival, inside the read loop: it must not await,
#: and an exception from it is logged and dropped. `headers` is the raw block with its `NATS/1.0` line, or `b""`.
Sink = Callable[[bytes, bytes, bytes, bytes], None]


class Frame(NamedTuple):
    """One message as it came."""

    subject: bytes
    reply: bytes
    headers: bytes
    payload: bytes


class Subscription(Protocol):
    """Interest in a subject, until `unsubscribe` or `Transport.drain`."""

    def unsubscribe(self) -> None:
        """Ends the interest at once: what is on the wire is dropped."""


class Transport(Protocol):
    """A connection that reconnects by itself and says so."""

    @property
    def connected(self) -> bool:
        """Whether a publish now goes to a socket rather than to the reconnect buffer."""

    @property
    def closed(self) -> bool:
        """Whether it has ended for good: by `close()`, or by giving up."""

    @property
    def epoch(self) -> int:
        """The number of the connection: 1 for the first, one more for each new one."""

    @property
    def max_payload(self) -> int:
        """What the server takes in one message, headers included [bytes]."""

    @property
    def server_version(self) -> tuple[int, int, int]:
        """Of the server we are connected to; `(0, 0, 0)` before the first connect."""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` from the loop after each change of `connected`, `closed` or `epoch`.

        Returns a function that ends it.
        """

    def publish(self, subject: bytes, payload: bytes = b"", reply: bytes = b"", headers: bytes = b"") -> None:
        """Writes one message; what one loop tick writes is joined into one write.

        While disconnected it goes to a bounded buffer that is written after the next connect. `headers` is a raw
        block that starts with `NATS/1.0`. Raises PayloadTooLarge, Disconnected (buffer full), ConnectionClosed.
        """

    def publish_now(self, subject: bytes, payload: bytes = b"", reply: bytes = b"", headers: bytes = b"") -> bool:
        """Like `publish`, but never into the reconnect buffer: false when there is no connection."""

    async def subscribe(self, subject: str, sink: Sink, queue: str = "") -> Subscription:
        """Interest in a subject; it survives reconnects."""

    async def request(self, subject: str, payload: bytes = b"", *, headers: bytes = b"", timeout_s: float) -> Frame:
        """Publishes and waits for the one answer. A 503 frame is returned like any other (see NO_RESPONDERS).

        Raises RequestTimeout, PayloadTooLarge, Disconnected, ConnectionClosed.
        """

    async def drain(self, subscription: Subscription, timeout_s: float) -> None:
        """Ends the interest, and returns when all that was on the wire has reached the sink, or after the time."""

    async def barrier(self, timeout_s: float) -> bool:
        """Whether the server has read everything written before, within the time."""

    async def reconnect(self) -> None:
        """Drops the connection and makes a new one: for one that is open and silent."""

    async def close(self) -> None:
        """Writes what is pending and closes. Never raises."""
