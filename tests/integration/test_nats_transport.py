"""The transport on a real nats-server, through the hook and through nats-py's public callbacks alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from client_rig import Cable
from nats.aio.client import Client

from memphis_worker.client.control.plane import DataPlane
from memphis_worker.client.headers import encode_headers, parse_headers, status_of
from memphis_worker.client.nats_dial import PENDING_BYTES
from memphis_worker.client.nats_parser import BatchParser, can_hook
from memphis_worker.client.nats_transport import NatsTransport
from memphis_worker.client.transport import Frame
from memphis_worker.embedded import EmbeddedBroker
from memphis_worker.errors import (
    AuthenticationFailed,
    ConnectionClosed,
    Disconnected,
    NotReachable,
    PayloadTooLarge,
    RequestTimeout,
)


def plane(broker: EmbeddedBroker, port: int | None = None, token: str | None = None) -> DataPlane:
    return DataPlane(servers=(f"nats://127.0.0.1:{port or broker.data_port}",), token=token or broker.token)


@pytest.fixture(params=[True, False], ids=["hook", "callbacks"])
async def transport(broker: EmbeddedBroker, request: pytest.FixtureRequest) -> AsyncIterator[NatsTransport]:
    transport = NatsTransport(plane(broker), raw_frames=request.param)
    await transport.connect()
    yield transport
    await transport.close()


class Inbox:
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._came = asyncio.Event()

    def __call__(self, *frame: bytes) -> None:
        self.frames.append(Frame(*frame))
        self._came.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.frames) < count:
                self._came.clear()
                await self._came.wait()


async def changed(transport: NatsTransport, connected: bool) -> None:
    """Returns when the transport has told it to its watchers."""
    event = asyncio.Event()
    end = transport.on_change(lambda: event.set() if transport.connected == connected else None)
    async with asyncio.timeout(10):
        if transport._seen[0] != connected:
            await event.wait()
    end()


def test_this_nats_py_has_what_the_hook_needs() -> None:
    """A canary: where it fails after an upgrade, the worker still works, at a third of the speed."""
    assert can_hook(Client())


async def test_the_hook_is_what_is_used(broker: EmbeddedBroker) -> None:
    transport = NatsTransport(plane(broker))
    await transport.connect()
    try:
        assert isinstance(transport._nc._ps, BatchParser)  # type: ignore[union-attr]
    finally:
        await transport.close()


async def test_frames_arrive_in_order_with_their_headers_and_bytes(transport: NatsTransport, name: str) -> None:
    inbox = Inbox()
    await transport.subscribe(f"{name}.*", inbox)
    block = encode_headers([("a", "1"), ("b", "x: y")])
    bodies = [b"", b"\r\n", b"x" * 300_000, *(b"%d" % n for n in range(500))]
    for body in bodies:
        transport.publish(f"{name}.x".encode(), body, reply=b"somebody", headers=block)
    await inbox.until(len(bodies))
    assert bodies == [frame.payload for frame in inbox.frames]
    assert {(f"{name}.x".encode(), b"somebody")} == {(frame.subject, frame.reply) for frame in inbox.frames}
    assert parse_headers(inbox.frames[0].headers) == {"a": "1", "b": "x: y"}


async def test_a_request_nobody_answers_gives_the_503(transport: NatsTransport, name: str) -> None:
    frame = await transport.request(name, timeout_s=5)
    assert status_of(frame.headers)[0] == 503


async def test_an_answer_that_does_not_come_is_a_timeout(transport: NatsTransport, name: str) -> None:
    await transport.subscribe(name, Inbox())
    with pytest.raises(RequestTimeout, match=name):
        await transport.request(name, timeout_s=0.05)


async def test_a_sink_that_raises_harms_nobody(transport: NatsTransport, name: str) -> None:
    def broken(*frame: bytes) -> None:
        raise ValueError("broken")

    inbox = Inbox()
    await transport.subscribe(f"{name}.broken", broken)
    await transport.subscribe(f"{name}.whole", inbox)
    transport.publish(f"{name}.broken".encode())
    transport.publish(f"{name}.whole".encode())
    await inbox.until(1)


async def test_a_drain_hands_over_what_is_on_the_wire(transport: NatsTransport, name: str) -> None:
    inbox = Inbox()
    subscription = await transport.subscribe(name, inbox)
    for _ in range(1000):
        transport.publish(name.encode(), b"x" * 100)
    assert await transport.barrier(5)
    await transport.drain(subscription, 5)
    assert len(inbox.frames) == 1000
    transport.publish(name.encode())
    assert await transport.barrier(5)
    assert len(inbox.frames) == 1000


async def test_what_is_too_large_is_refused_before_it_is_written(transport: NatsTransport, name: str) -> None:
    """Headers count: nats-py does not count them, and the server then closes the connection for good."""
    block = encode_headers([("a", "x" * 200)])
    with pytest.raises(PayloadTooLarge, match=str(transport.max_payload)):
        transport.publish(name.encode(), b"x" * (transport.max_payload - 100), headers=block)
    assert await transport.barrier(5)
    assert transport.connected


@pytest.mark.parametrize("raw", [True, False], ids=["hook", "callbacks"])
async def test_a_cut_connection_comes_back_with_its_subscriptions(broker: EmbeddedBroker, name: str, raw: bool) -> None:
    async with Cable(broker.data_port) as cable:
        transport = NatsTransport(plane(broker, cable.port), raw_frames=raw, reconnect_interval_s=0.02)
        await transport.connect()
        inbox = Inbox()
        await transport.subscribe(name, inbox)
        assert transport.epoch == 1
        await cable.tear()
        await changed(transport, connected=False)
        assert not transport.publish_now(name.encode(), b"never")
        transport.publish(name.encode(), b"later")
        assert not await transport.barrier(1)
        for _ in range(PENDING_BYTES // 500_000):
            transport.publish(b"nobody", b"x" * 500_000)
        with pytest.raises(Disconnected, match="wait for it already"):
            transport.publish(b"nobody", b"x" * 500_000)
        await cable.mend()
        await changed(transport, connected=True)
        assert transport.epoch == 2
        await inbox.until(1)
        assert [frame.payload for frame in inbox.frames] == [b"later"]
        await transport.close()


async def test_a_client_that_closed_itself_is_replaced(broker: EmbeddedBroker, name: str) -> None:
    """Any -ERR but a few closes nats-py for good; the transport makes a new one and attaches everything to it."""
    transport = NatsTransport(plane(broker), reconnect_interval_s=0.02)
    await transport.connect()
    inbox = Inbox()
    await transport.subscribe(name, inbox)
    epoch, nc = transport.epoch, transport._nc
    assert nc is not None
    await nc.close()
    async with asyncio.timeout(10):
        await changed(transport, connected=True)
    assert transport.epoch > epoch
    transport.publish(name.encode(), b"again")
    await inbox.until(1)
    assert status_of((await transport.request("nobody", timeout_s=5)).headers)[0] == 503
    await transport.close()


async def test_a_line_that_cannot_be_read_brings_a_new_connection_at_once(broker: EmbeddedBroker, name: str) -> None:
    """And not after the watchdog's second, which is for a client that is connected and deaf."""
    transport = NatsTransport(plane(broker), reconnect_interval_s=0.02)
    await transport.connect()
    inbox = Inbox()
    await transport.subscribe(name, inbox)
    with structlog.testing.capture_logs() as logs:
        transport._nc._transport._io_reader.feed_data(b"MSG a 1 x\r\n")  # type: ignore[union-attr]
        async with asyncio.timeout(10):
            while not (transport.epoch == 2 and transport.connected):
                await asyncio.sleep(0.01)
    assert "broker.deaf" not in [entry["event"] for entry in logs]
    transport.publish(name.encode(), b"again")
    await inbox.until(1)
    await transport.close()


async def test_what_waits_for_a_connection_outlives_the_client_that_lost_it(broker: EmbeddedBroker, name: str) -> None:
    async with Cable(broker.data_port) as cable:
        transport = NatsTransport(plane(broker, cable.port), reconnect_interval_s=0.02)
        await transport.connect()
        inbox = Inbox()
        await transport.subscribe(name, inbox)
        await cable.tear()
        await changed(transport, connected=False)
        transport.publish(name.encode(), b"later")
        await asyncio.sleep(0)  # one turn: what is joined in it has been given to whoever writes
        assert transport._nc is not None
        await transport._nc.close()
        await cable.mend()
        await changed(transport, connected=True)
        await inbox.until(1)
        assert [frame.payload for frame in inbox.frames] == [b"later"]
        await transport.close()


async def test_a_client_that_may_not_reconnect_is_closed(broker: EmbeddedBroker, name: str) -> None:
    async with Cable(broker.data_port) as cable:
        transport = NatsTransport(plane(broker, cable.port), reconnect=False)
        await transport.connect()
        closed = asyncio.Event()
        transport.on_change(lambda: closed.set() if transport.closed else None)
        await cable.tear()
        async with asyncio.timeout(10):
            await closed.wait()
        with pytest.raises(ConnectionClosed):
            transport.publish(name.encode())
        with pytest.raises(ConnectionClosed):
            await transport.subscribe(name, Inbox())
        await transport.close()


async def test_a_wrong_token_and_a_closed_port_are_told_apart(broker: EmbeddedBroker) -> None:
    with pytest.raises(AuthenticationFailed) as refused:
        await NatsTransport(plane(broker, token="guessed-wrong")).connect()
    assert "guessed-wrong" not in str(refused.value)
    async with Cable(broker.data_port) as cable:
        port = cable.port
    with pytest.raises(NotReachable, match=str(port)):
        await NatsTransport(plane(broker, port)).connect()


async def test_what_may_not_wait_is_not_written_before_a_new_connection_is_told(broker: EmbeddedBroker) -> None:
    transport = NatsTransport(plane(broker))
    await transport.connect()
    transport._seen = (False, False, transport.epoch)  # nats-py is connected again, and has not told us yet
    for _ in range(PENDING_BYTES // 500_000):
        transport.publish(b"x", b"x" * 500_000)
    with pytest.raises(Disconnected):
        transport.publish(b"x", b"x" * 500_000)
    assert not transport.publish_now(b"x", b"x" * 500_000)
    await transport.close()
    assert not transport.publish_now(b"x")
