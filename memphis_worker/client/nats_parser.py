"""The hook into nats-py: a parser that hands the frames of a read to their sinks, without a task or queue for each."""

from __future__ import annotations

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from memphis_worker.client.transport import Sink
from memphis_worker.failure import failure
from memphis_worker.log import get_logger

__all__ = ["CONTROL_LINE_MAX", "BatchParser", "can_hook"]

log = get_logger(__name__)

CONTROL_LINE_MAX = 64 * 1024
H, M = b"HM"


class BatchParser(Parser):
    """nats-py's parser, with one loop over all the frames of a read for those that have a sink.

    Everything else (PING, INFO, -ERR, frames of nats-py's own subscriptions) goes to nats-py as before. What cannot be
    read is a ProtocolError, to which nats-py answers with a new connection; any other exception would end its read
    loop and leave it connected and deaf.
    """

    def __init__(self, nc: Client, sinks: dict[bytes, Sink]) -> None:
        self._sinks = sinks
        self._resets = 0
        super().__init__(nc)

    def reset(self) -> None:
        super().reset()
        self._resets += 1
        self._parts: list[bytes] = []
        self._missing = 0

    async def parse(self, data: bytes = b"") -> None:
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._parts)
            self._parts = []
        sinks, find, resets = self._sinks, data.find, self._resets
        at, end = 0, len(data)
        self._missing = 0
        while at < end:
            eol = find(b"\r\n", at)
            if eol < 0:
                if end - at > CONTROL_LINE_MAX:
                    raise ProtocolError
                break
            first = data[at]
            if first != M and first != H:
                line = data[at : eol + 2]
                at = eol + 2
                await super().parse(line)
                if self._resets != resets:
                    return
                continue
            start = body = eol + 2
            try:
                if first == H:  # HMSG <subject> <sid> [reply] <header bytes> <bytes>
                    words = data[at + 5 : eol].split()
                    if len(words) == 5:
                        subject, sid, reply, head, size = words
                    else:
                        subject, sid, head, size = words
                        reply = b""
                    body = start + int(head)
                else:  # MSG <subject> <sid> [reply] <bytes>
                    words = data[at + 4 : eol].split()
                    if len(words) == 4:
                        subject, sid, reply, size = words
                    else:
                        subject, sid, size = words
                        reply = b""
                stop = start + int(size)
            except ValueError as exc:  # no number, or too few or too many words
                raise ProtocolError from exc
            if not start <= body <= stop:  # a length below 0: the next frame would be this one again, for ever
                raise ProtocolError
            if stop + 2 > end:
                self._missing = stop + 2 - end
                break
            sink = sinks.get(sid)
            if sink is not None:
                try:
                    sink(subject, reply, data[start:body], data[body:stop])
                except Exception as exc:  # noqa: BLE001
                    log.error("transport.sink_failed", **failure(exc))
            elif sid.isdigit():
                await self.nc._process_msg(int(sid), subject, reply, data[body:stop], data[start:body])
            else:
                raise ProtocolError
            at = stop + 2
        if at < end:
            self._parts = [data[at:]]


def can_hook(nc: Client) -> bool:
    """Whether this nats-py has the parts that the batch parser and the joined writes need."""
    return (
        isinstance(getattr(nc, "_ps", None), Parser)
        and isinstance(getattr(nc, "_pending", None), list)
        and isinstance(getattr(nc, "_pending_data_size", None), int)
        and all(callable(getattr(nc, name, None)) for name in ("_process_msg", "_send_ping"))
        and hasattr(nc, "_transport")
        and all(callable(getattr(Parser, name, None)) for name in ("parse", "reset"))
    )
