"""Connecting to something that is not (yet, or any more) a broker: what may pass is told apart from a refusal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog

from memphis_worker.client.control.plane import DataPlane
from memphis_worker.client.nats_transport import NatsTransport
from memphis_worker.errors import AuthenticationFailed, BrokerRefused, MemphisWorkerError, NotReachable

INFO = b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"proto":1,"headers":true}\r\n'

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(serve: Serve, timeout_s: float = 5.0) -> AsyncIterator[NatsTransport]:
    """A transport, not yet connected, to a server that does this."""

    async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(each, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = NatsTransport(DataPlane(servers=(f"nats://127.0.0.1:{port}",), token="secret"), timeout_s=timeout_s)
    try:
        yield transport
    finally:
        await transport.close()
        server.close()
        await server.wait_closed()


async def pongs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, denied: bytes = b"denied") -> None:
    """A server that refuses one subject."""
    writer.write(INFO)
    while line := await reader.readline():
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
        elif line.startswith(b"SUB " + denied):
            writer.write(b"-ERR 'Permissions Violation for Subscription to \"%b\"'\r\n" % denied)


@pytest.mark.parametrize(
    ("greeting", "error", "answer"),
    [
        (b"", NotReachable, b""),
        (b"\r\n", NotReachable, b""),
        (INFO[:20], NotReachable, b""),
        (INFO, NotReachable, b""),
        (INFO, NotReachable, b"-ERR 'Server Shutdown'\r\n"),
        (INFO, NotReachable, b"-ERR 'maximum connections exceeded'\r\n"),
        (INFO, NotReachable, b"-ERR 'Authentication Timeout'\r\n"),
        (INFO, AuthenticationFailed, b"-ERR 'Authorization Violation'\r\n"),
        (INFO, BrokerRefused, b"-ERR 'Secure Connection - TLS Required'\r\n"),
    ],
)
async def test_only_what_no_second_attempt_changes_is_a_refusal(
    greeting: bytes, error: type[MemphisWorkerError], answer: bytes
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        if greeting == INFO:
            await reader.readuntil(b"PING\r\n")
            writer.write(answer)

    async with serving(serve) as transport:
        with pytest.raises(error) as caught:
            await transport.connect()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


async def test_a_server_that_says_nothing_is_not_reachable() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent, timeout_s=0.05) as transport:
        with pytest.raises(NotReachable, match="nobody answers there \\(no answer\\)"):
            await transport.connect()


async def test_a_cancelled_connect_leaves_no_connection_behind() -> None:
    accepted, gone = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        gone.set()

    before = asyncio.all_tasks()
    async with serving(slow) as transport:
        connecting = asyncio.create_task(transport.connect())
        await accepted.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert "nats.connect" not in {task.get_name() for task in asyncio.all_tasks() - before}
        async with asyncio.timeout(10):
            await gone.wait()


async def test_the_first_error_after_connecting_is_logged() -> None:
    with structlog.testing.capture_logs() as logs:
        async with serving(pongs) as transport:
            await transport.connect()
            await transport.subscribe("denied", lambda *frame: None)
            assert await transport.barrier(10)
            assert await transport.barrier(10)
    assert ["permissions violation" in log["text"] for log in logs if log["event"] == "broker.error"] == [True]
