"""MemoryBroker: a broker in the test's own loop, with the faults of a real one as methods.

Its transport and its plane stand where production has a socket, so everything above them is production code. Streams
keep all their messages: no retention, no limits, no replicas.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from memphis_worker.bootstrap import producing
from memphis_worker.client.headers import parse_headers
from memphis_worker.client.names import resent_subject
from memphis_worker.errors import Missing, NotReachable
from memphis_worker.options import StationOptions
from memphis_worker.runtime.runner import Session
from memphis_worker.testing.api import answer
from memphis_worker.testing.durable import Answer, Durable, Stored
from memphis_worker.testing.link import Link, MemoryTransport
from memphis_worker.testing.plane import MemoryPlane

__all__ = ["MemoryBroker", "MemoryStream"]

#: What `loop.time()` 0 is on the broker's calendar [s].
EPOCH_S = 1_700_000_000
DEDUP_LEAST_S = 0.1


class MemoryStream:
    """One station's stream: its messages by sequence, and its groups by name."""

    def __init__(self, name: str, options: StationOptions) -> None:
        self.name = name
        self.options = options
        self.messages: dict[int, Stored] = {}
        self.last = 0
        self.groups: dict[str, Durable] = {}
        self.producers: list[str] = []
        self.full = False
        """Refuses every message, as a full disk or a limit does."""
        self.mute = False
        """Takes no message and confirms none."""
        self._ids: dict[str, tuple[int, float]] = {}

    def store(self, subject: bytes, headers: bytes, data: bytes, now: float) -> tuple[int, bool]:
        """Sequence, and whether the message id was there already."""
        identity = parse_headers(headers).get("Nats-Msg-Id") if headers else None
        if identity is not None:
            window = max(DEDUP_LEAST_S, self.options.dedup_window_ms / 1000 if self.options.dedup_enabled else 0)
            sequence, stored = self._ids.get(identity, (0, now - window))
            if now - stored < window:
                return sequence, True
            self._ids[identity] = (self.last + 1, now)
        self.last += 1
        self.messages[self.last] = Stored(subject, headers, data, self.last, int((EPOCH_S + now) * 1e9))
        return self.last, False


class MemoryBroker:
    """Connect with `session()`, or run an app on it with `running(app, broker=…)`."""

    def __init__(
        self,
        *,
        server_version: tuple[int, int, int] = (2, 15, 1),
        max_payload: int = 1024 * 1024,
        latency_s: float = 0.0,
    ) -> None:
        self.server_version = server_version
        self.max_payload = max_payload
        self.latency_s = latency_s
        """Seconds that everything takes on the wire, each way."""
        self.up = True
        self.denied = ""
        """Subjects with this beginning may not be subscribed to."""
        self.links: list[Link] = []
        self.streams: dict[str, MemoryStream] = {}
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._looking = False

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    # ----------------------------------------------------------------- clients

    async def session(self) -> Session:
        """A signed-in connection, as a runner wants it. Raises NotReachable while the broker is down."""
        if not self.up:
            raise NotReachable("memory: nobody answers there")
        plane, transport = MemoryPlane(self), self.transport()
        return Session(plane, transport, producing(plane, transport, 5.0))

    def transport(self, *, reconnect_s: float = 0.1) -> MemoryTransport:
        """A connection of its own."""
        return MemoryTransport(self, reconnect_s=reconnect_s)

    # ------------------------------------------------------------------ looking

    def station(self, name: str) -> MemoryStream:
        """Raises Missing."""
        try:
            return self.streams[name]
        except KeyError:
            raise Missing(f"station {name!r} does not exist; there are: {', '.join(self.streams) or 'none'}") from None

    def group(self, station: str, group: str) -> Durable:
        """What the server knows of a group. Raises Missing."""
        try:
            return self.station(station).groups[group]
        except KeyError:
            raise Missing(f"group {group!r} of station {station!r} does not exist") from None

    def answers(self, station: str, group: str, verb: str = "") -> list[Answer]:
        """The answers that have arrived, all or those of one verb."""
        return [each for each in self.group(station, group).answers if verb in ("", each.verb)]

    def bodies(self, station: str) -> list[bytes]:
        """What a station holds."""
        return [message.data for message in self.station(station).messages.values()]

    async def until(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Returns when `holds()`, looked at after each change at the broker. Raises TimeoutError."""
        if holds():
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((holds, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        finally:
            self._waiters = [each for each in self._waiters if each[1] is not future]

    def changed(self) -> None:
        if self._waiters and not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        for holds, future in self._waiters:
            if not future.done() and holds():
                future.set_result(None)

    # ------------------------------------------------------------------- faults

    def cut(self) -> None:
        """Every connection breaks. Open pulls live on here, until a message finds that nobody listens."""
        for link in list(self.links):
            if link.alive:
                link.transport.drop()
        self._prune()

    def stop(self) -> None:
        """The server dies: connections and open pulls are gone, and nobody answers until `start`."""
        self.up = False
        for group in self._groups():
            group.end_pulls("")
        for link in self.links:
            link.silent = False
        self.cut()

    def start(self, *, forgotten_acks: int = 0) -> None:
        """Back, with its messages. The last acks of each group may not have reached the disk."""
        self.up = True
        for group in self._groups():
            group.forget_acks(forgotten_acks)

    def restart(self, *, forgotten_acks: int = 0) -> None:
        """`stop` and `start` at once."""
        self.stop()
        self.start(forgotten_acks=forgotten_acks)

    def go_silent(self) -> None:
        """Half-open: every present connection swallows all frames, both ways, and nobody is told. New ones work."""
        for link in self.links:
            link.silent = True

    def lose_acks(self, lost: bool = True) -> None:
        """No answer to a delivery arrives any more."""
        for group in self._groups():
            group.loses_answers = lost

    def delete_group(self, station: str, group: str) -> None:
        """The group is gone, with its progress: open pulls get `409 Consumer Deleted`, later ones `503`."""
        durable = self.station(station).groups.pop(group)
        durable.end_pulls("409 Consumer Deleted")
        durable.close()
        self.changed()

    def end_pulls(self, station: str, group: str, status: str) -> None:
        """Every open pull of the group ends with this status, `409 Leadership Change` say; each on its own reply."""
        self.group(station, group).end_pulls(status)

    def resend(self, station: str, group: str, data: bytes, headers: bytes = b"") -> None:
        """As the operator of a classic broker sends a dead letter again: to the group, not stored, nothing to ack."""
        self.route(resent_subject(station, group).encode(), b"", headers, data)

    def _groups(self) -> Iterable[Durable]:
        return [group for stream in self.streams.values() for group in stream.groups.values()]

    def _prune(self) -> None:
        self.links = [link for link in self.links if link.alive]

    # --------------------------------------------------------------- the server

    def handle(self, link: Link, kind: str, *operation: Any) -> None:
        """One operation of a client, in the order in which they were written."""
        match kind:
            case "pub":
                subject, reply, headers, data = operation
                self._publish(subject, reply, headers, data)
            case "sub":
                number, subject, queue = operation
                link.subscriptions[number] = (subject.encode().split(b"."), queue)
            case "unsub":
                link.subscriptions.pop(operation[0], None)
            case "ping":
                link.send(operation[0])

    def interested(self, to: bytes) -> bool:
        return any(True for _ in self._listeners(to))

    def send(self, to: bytes, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        """To whoever listens to `to`; `subject` is what they read."""
        for link, number in list(self._listeners(to)):
            link.send(lambda link=link, number=number: link.transport.deliver(number, subject, reply, headers, data))  # type: ignore[misc]

    def route(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> bool:
        """To subscribers of core NATS; of a queue one gets it. Returns whether anybody did."""
        queues: set[str] = set()
        found = False
        for link, number in list(self._listeners(subject)):
            queue = link.subscriptions[number][1]
            found = True
            if queue in queues:
                continue
            if queue:
                queues.add(queue)
            link.send(lambda link=link, number=number: link.transport.deliver(number, subject, reply, headers, data))  # type: ignore[misc]
        return found

    def _listeners(self, subject: bytes) -> Iterable[tuple[Link, int]]:
        tokens = subject.split(b".")
        for link in self.links:
            for number, (pattern, _) in link.subscriptions.items():
                if _matches(pattern, tokens):
                    yield link, number

    def _publish(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if subject.startswith(b"$JS.ACK."):
            self._answered(subject, reply, data)
        elif subject.startswith(b"$JS.API.CONSUMER.MSG.NEXT."):
            stream, group = subject.decode().split(".")[5:7]
            found = self.streams[stream].groups.get(group) if stream in self.streams else None
            if found is None:
                self._no_responders(reply)
            else:
                found.pull(reply, data)
        elif subject.startswith(b"$JS.API."):
            asked = json.loads(data) if data else {}
            body = answer(self.streams, subject.decode()[len("$JS.API.") :], asked, EPOCH_S + self._loop.time())
            self.send(reply, reply, b"", b"", json.dumps(body).encode())
        else:
            self._produced(subject, reply, headers, data)

    def _produced(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        stream = self.streams.get(subject.partition(b".")[0].decode())
        heard = self.route(subject, reply, headers, data)
        if stream is None or b"." not in subject:
            if reply and not heard:
                self._no_responders(reply)
            return
        if stream.mute:
            return
        if stream.full:
            body: dict[str, Any] = {"error": {"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"}}
        else:
            sequence, duplicate = stream.store(subject, headers, data, self._loop.time())
            body = {"stream": stream.name, "seq": sequence, **({"duplicate": True} if duplicate else {})}
            for group in stream.groups.values():
                if not duplicate and _matches(group.filter_subject.encode().split(b"."), subject.split(b".")):
                    group.offer(sequence)
        if reply:
            self.send(reply, reply, b"", b"", json.dumps(body).encode())
        self.changed()

    def _answered(self, subject: bytes, reply: bytes, data: bytes) -> None:
        tokens = subject.decode().split(".")
        stream = self.streams.get(tokens[2])
        group = stream.groups.get(tokens[3]) if stream is not None else None
        if group is None:
            self._no_responders(reply)
            return
        group.answer(int(tokens[5]), int(tokens[4]), data)
        if reply:
            self.send(reply, reply, b"", b"", b"")

    def _no_responders(self, reply: bytes) -> None:
        if reply:
            self.send(reply, reply, b"", b"NATS/1.0 503\r\n\r\n", b"")


def _matches(pattern: list[bytes], tokens: list[bytes]) -> bool:
    for at, token in enumerate(pattern):
        if token == b">":
            return len(tokens) > at
        if at >= len(tokens) or token not in (b"*", tokens[at]):
            return False
    return len(pattern) == len(tokens)
