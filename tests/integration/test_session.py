"""The control channel with a broker that answers nonsense: the session is lost, says so, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

import pytest
import structlog

from memphis_worker.client.control.session import Session
from memphis_worker.errors import NotReachable
from memphis_worker.options import ConnectOptions

GRANT = {"connection_id": "a" * 24, "access_token": "t", "access_token_exp": 60_000, "ping_interval_ms": 40}
DEEP = b'{"a":' + b"[" * 65_536


@contextlib.asynccontextmanager
async def session_with(*, hello: list[bytes], pings: list[bytes]) -> AsyncIterator[Session]:
    """A session, not yet open, whose broker gives these answers first, and later the right ones."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while asked := await reader.read(4096):
                odd, right = (pings, b"{}") if b'"ping"' in asked else (hello, json.dumps(GRANT).encode())
                answer = odd.pop(0) if odd else right
                writer.write(answer)
                if answer != right:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    session = Session(ConnectOptions(host="127.0.0.1", tcp_port=port, reconnect_interval_ms=1), lambda: None)
    try:
        yield session
    finally:
        await session.close()
        server.close()
        await server.wait_closed()


async def until(session: Session, reached: Callable[[], bool]) -> None:
    changed = asyncio.Event()
    unwatch = session.on_change(changed.set)
    async with asyncio.timeout(20):
        while not reached():
            await changed.wait()
            changed.clear()
    unwatch()


@pytest.mark.parametrize("answer", [DEEP, b'{"a":', b"oops", b""])
async def test_a_ping_with_a_nonsensical_answer_is_a_lost_session_that_comes_back(answer: bytes) -> None:
    async with session_with(hello=[], pings=[answer]) as session:
        states: list[bool] = []
        session.on_change(lambda: states.append(session.connected))
        await session.open()
        await until(session, lambda: states[-2:] == [False, True])
        assert session.connected


HUGE = json.dumps({**GRANT, "ping_interval_ms": 10**400}).encode()


@pytest.mark.parametrize("answer", [DEEP, HUGE, b'{"access_token":"secr'])
async def test_a_reconnect_with_a_nonsensical_answer_is_tried_again(answer: bytes) -> None:
    hello: list[bytes] = []
    async with session_with(hello=hello, pings=[b""]) as session:
        states: list[bool] = []
        session.on_change(lambda: states.append(session.connected))
        with structlog.testing.capture_logs() as logs:
            await session.open()
            hello.append(answer)
            await until(session, lambda: states[-2:] == [False, True])
    assert "session.reconnect_failed" in {log["event"] for log in logs}
    assert "secr" not in str(logs)


async def test_a_sign_in_that_breaks_off_is_not_reachable_yet() -> None:
    async with session_with(hello=[b'{"access_token":"secr'], pings=[]) as session:
        with pytest.raises(NotReachable, match="broke off") as caught:
            await session.open()
        assert "secr" not in str(caught.value)
