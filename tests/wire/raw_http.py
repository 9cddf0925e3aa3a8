"""One HTTP request over a socket of its own: the status line and the headers as they stand on the wire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status_line: str
    headers: dict[str, list[str]]
    """Names in lower case."""
    body: bytes


async def request(port: int, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
    """Sends it with `Connection: close` and reads until the end."""
    sent = {"Host": f"127.0.0.1:{port}", **headers, "Connection": "close"}
    if body:
        sent["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return _parsed(received)


def _parsed(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *rest = head.decode("latin-1").split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in rest:
        name, _, value = line.partition(": ")
        headers.setdefault(name.lower(), []).append(value)
    if headers.get("transfer-encoding") == ["chunked"]:
        body = _joined(body)
    return Answer(status_line, headers, body)


def _joined(chunked: bytes) -> bytes:
    joined = b""
    while True:
        size, _, rest = chunked.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return joined
        joined += rest[:length]
        chunked = rest[length + 2 :]
