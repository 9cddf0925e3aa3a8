"""An HTTP/1.1 server with the habits of Go's net/http and gin: status lines, lengths, redirects, CORS.

Source: exchanges recorded with Memphis 0.3.0 (tests/wire/classic/http.jsonl).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

import h11

from memphis_worker.embedded import gojson
from memphis_worker.embedded.listener import client_address
from memphis_worker.failure import failure
from memphis_worker.log import get_logger

log = get_logger(__name__)

JSON = "application/json; charset=utf-8"
SHOWABLE = 666
"""The status of an error whose text is meant for the user."""
CHUNKED_ABOVE = 2048
"""Go's net/http knows the length only of what fits in its buffer."""

Header = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, read completely."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    address: str

    def cookie(self, name: str) -> str:
        """The cookie's value, empty when there is none."""
        for part in self.headers.get("cookie", "").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is sent back."""

    status: int
    body: bytes = b""
    headers: tuple[Header, ...] = field(default=())


class Abort(Exception):
    """Ends a handler with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def ok(value: object, *headers: Header) -> Reply:
    """200 with an indented body."""
    return Reply(status=200, body=gojson.indented(value), headers=(("Content-Type", JSON), *headers))


def abort(status: int, message: object) -> Abort:
    """An error with a compact body."""
    return Abort(Reply(status=status, body=gojson.compact({"message": message}), headers=(("Content-Type", JSON),)))


def showable(text: str) -> Abort:
    """666: a text for the user."""
    return abort(SHOWABLE, text)


def server_error() -> Abort:
    """500 with a body."""
    return abort(500, "Server error")


def panicked() -> Abort:
    """500 without a body: what a crashed handler of the real broker gives."""
    return Abort(Reply(status=500))


NOT_FOUND = Reply(status=404, body=b"404 page not found", headers=(("Content-Type", "text/plain"),))

Handler = Callable[[Request], Awaitable[Reply]]
Route = tuple[str, str]
"""Method and path."""


class HttpSite:
    """Routes and their handlers; `session` serves one connection of a Listener."""

    def __init__(self, find: Callable[[str, str], Handler | None]) -> None:
        self._find = find

    async def answer(self, request: Request) -> Reply:
        """The reply to one request, CORS headers included."""
        origin = request.headers.get("origin", "")
        cors = _cors(origin) if origin.startswith(("http://", "https://")) else ()
        if cors and request.method == "OPTIONS":
            return Reply(status=204, headers=(*cors[:2], *_PREFLIGHT))
        reply = await self._route(request)
        return Reply(status=reply.status, body=reply.body, headers=reply.headers + cors)

    async def _route(self, request: Request) -> Reply:
        handler = self._find(request.method, request.path)
        if handler is None:
            return self._redirect(request) or NOT_FOUND
        try:
            return await handler(request)
        except Abort as end:
            return end.reply
        except Exception as exc:  # as in gin: a crashed handler is a 500, the server goes on  # noqa: BLE001
            log.error("embedded_request.failed", method=request.method, path=request.path, **failure(exc))
            return panicked().reply

    def _redirect(self, request: Request) -> Reply | None:
        """A path with a slash too many leads to the one without."""
        path = request.path.removesuffix("/")
        if path == request.path or self._find(request.method, path) is None:
            return None
        location = ("Location", f"{path}?{request.query}" if request.query else path)
        if request.method != "GET":
            return Reply(status=307, headers=(location,))
        body = f'<a href="{path}">Moved Permanently</a>.\n\n'.encode()
        return Reply(status=301, body=body, headers=(("Content-Type", "text/html; charset=utf-8"), location))

    async def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until either side closes it."""
        connection = h11.Connection(h11.SERVER)
        while True:
            try:
                request = await _read(connection, reader, writer)
            except h11.RemoteProtocolError:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            if request is None:
                return
            writer.write(_written(connection, request, await self.answer(request)))
            await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()


def _cors(origin: str) -> tuple[Header, ...]:
    return (
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Expose-Headers", "Content-Length"),
        ("Vary", "Origin"),
    )


_PREFLIGHT: tuple[Header, ...] = (
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)


async def _read(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | None:
    head: h11.Request | None = None
    body: list[bytes] = []
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(_bytes(connection.send(h11.InformationalResponse(status_code=100, headers=[]))))
                connection.receive_data(await reader.read(65536))
            case h11.Request():
                head = event
            case h11.Data():
                body.append(bytes(event.data))
            case h11.EndOfMessage() if head is not None:
                return _request(head, b"".join(body), client_address(writer))
            case _:
                return None


def _request(head: h11.Request, body: bytes, address: str) -> Request:
    path, _, query = head.target.decode("latin-1").partition("?")
    headers = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in head.headers}
    return Request(
        method=head.method.decode("latin-1"), path=path, query=query, headers=headers, body=body, address=address
    )


def _written(connection: h11.Connection, request: Request, reply: Reply) -> bytes:
    headers = [*reply.headers, ("Date", formatdate(usegmt=True))]
    if len(reply.body) > CHUNKED_ABOVE:
        headers.append(("Transfer-Encoding", "chunked"))
    elif reply.status != HTTPStatus.NO_CONTENT:
        headers.append(("Content-Length", str(len(reply.body))))
    parts = [connection.send(h11.Response(status_code=reply.status, reason=_reason(reply.status), headers=headers))]
    if reply.body and request.method != "HEAD":
        parts.append(connection.send(h11.Data(data=reply.body)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(_bytes(part) for part in parts)


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return f"status code {status}".encode()


def _bytes(part: bytes | None) -> bytes:
    return part or b""
