"""Dead letters: the untouched payload and its headers, stored in a station and confirmed before the group loses it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.headers import encode_headers, is_server_header
from memphis_worker.client.jetstream import publish_confirmed
from memphis_worker.client.message import Message
from memphis_worker.client.transport import Transport
from memphis_worker.errors import Disconnected, ProduceFailed, RequestTimeout
from memphis_worker.handler import Handler
from memphis_worker.runtime.settlement import DeadLetter

__all__ = ["PREFIX", "DeadLetters"]

PREFIX = "memphis-worker-"
TRIES = 3
CONFIRM_S = 5.0
PRODUCER = "memphis_worker"


class DeadLetters:
    """Stores them through the worker's own connection."""

    def __init__(self, plane: ControlPlane, transport: Transport) -> None:
        self._plane = plane
        self._transport = transport

    async def record(self, handler: Handler, message: Message, dead: DeadLetter) -> None:
        """Returns when the station has confirmed the copy. Raises ProduceFailed, Missing, RequestTimeout, …

        The id is that of the delivery's message and group, so a copy that comes twice is stored once (within an hour).
        """
        station = handler.dead_station
        assert station is not None
        subject = self._plane.produce_subject(station)
        headers = self._headers(handler, message, dead)
        for attempt in range(TRIES):
            try:
                await publish_confirmed(self._transport, subject, message.data, headers, timeout_s=CONFIRM_S)
                return
            except (RequestTimeout, Disconnected, ProduceFailed):
                if attempt == TRIES - 1:
                    raise

    def _headers(self, handler: Handler, message: Message, dead: DeadLetter) -> bytes:
        """The original block without what the server would obey, then our own; shortened to what the broker takes."""
        number = f"{message.sequence}.{message.stored_ns}" if message.sequence else uuid.uuid4().hex
        identity = f"{message.stream}.{message.group}.{number}"
        own = [
            ("Nats-Msg-Id", identity),
            ("msg-id", identity),
            (f"{PREFIX}station", message.station),
            (f"{PREFIX}group", message.group),
            (f"{PREFIX}handler", handler.name),
            (f"{PREFIX}stream", message.stream),
            (f"{PREFIX}sequence", str(message.sequence)),
            (f"{PREFIX}deliveries", str(message.deliveries)),
            (f"{PREFIX}reason", dead.reason),
            (f"{PREFIX}time", datetime.now(UTC).isoformat(timespec="milliseconds")),
        ]
        error = [(f"{PREFIX}error", dead.error.replace("Nats-", "Nats_"))] if dead.error else []
        kept = _copied(message.raw_headers)
        present = {line.partition(b":")[0].strip().lower() for line in kept}
        own += [each for each in self._plane.message_headers(PRODUCER) if each[0].lower().encode() not in present]
        room = self._transport.max_payload - len(message.data)
        for lines, pairs in ((kept, own + error), (kept, own), ([], own), ([], own[:2])):
            block = _block(lines, encode_headers(pairs))
            if len(block) <= room:
                return block
        return b""


def _copied(raw: bytes) -> list[bytes]:
    """The header lines of the original, byte for byte, without server instructions and earlier dead-letter facts.

    Nor anything that contains `Nats-`: a server before 2.10 looks for the names of its instructions anywhere in the
    block, `X-Nats-Rollup` and values included (nats-server `server/stream.go`, getHdrVal, v2.2 to v2.9).
    """
    kept = []
    for line in raw.split(b"\r\n")[1:]:
        name = line.partition(b":")[0].strip().decode("ascii", "replace").lower()
        if b"Nats-" in line:
            continue
        if name and name != "msg-id" and not is_server_header(name) and not name.startswith(PREFIX):
            kept.append(line)
    return kept


def _block(lines: list[bytes], own: bytes) -> bytes:
    if not lines:
        return own
    first, _, rest = own.partition(b"\r\n")
    return b"\r\n".join([first, *lines, rest])
