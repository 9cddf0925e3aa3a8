"""A consumer of the client on a MemoryBroker: what a fetch or a callback that is cut short leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pull_rig import GROUP, STATION, settle

from memphis_worker.client.consumer import Consumer, ConsumerOptions
from memphis_worker.client.message import Message
from memphis_worker.client.operation import Operations
from memphis_worker.errors import MemphisWorkerError
from memphis_worker.options import GroupOptions, StationOptions
from memphis_worker.testing import MemoryBroker
from memphis_worker.testing.link import MemoryTransport
from memphis_worker.testing.plane import MemoryPlane


@contextlib.asynccontextmanager
async def consuming(latency_s: float = 0.0) -> AsyncIterator[tuple[Consumer, MemoryBroker, MemoryTransport]]:
    broker = MemoryBroker(latency_s=latency_s)
    plane, transport, operations = MemoryPlane(broker), broker.transport(), Operations()
    await plane.create_station(STATION, StationOptions())
    options = ConsumerOptions(pull_interval_ms=100, group=GroupOptions(max_ack_time_ms=30_000))
    consumer = Consumer(operations, plane, transport, STATION, "member", GROUP, options)
    consumer.start()
    await consumer
    try:
        yield consumer, broker, transport
    finally:
        await consumer.end(1)
        await operations.finish(1)
        await transport.close()
        for group in list(broker.streams[STATION].groups.values()):
            group.close()


@pytest.mark.parametrize("gone", ["cancelled", "closed"])
async def test_a_fetch_that_is_cut_short_gives_back_what_its_first_pull_got(gone: str) -> None:
    async with consuming(latency_s=0.1) as (consumer, broker, transport):
        durable = broker.group(STATION, GROUP)
        fetching = asyncio.create_task(consumer.fetch(10))
        await broker.until(lambda: any(pull.batch == 1 for pull in durable.pulls))
        transport.publish(f"{STATION}.final".encode(), b"1")
        await broker.until(lambda: len(durable.requests) == 3)  # the one message came, and it asks for what came along
        assert [request["batch"] for request in durable.requests] == [10, 1, 9]
        if gone == "cancelled":
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
        else:
            consumer.stop(MemphisWorkerError("over"))
            assert await asyncio.wait({fetching}) == ({fetching}, set())
            assert isinstance(fetching.exception(), MemphisWorkerError)
        await broker.until(lambda: bool(durable.again))
        assert len(broker.answers(STATION, GROUP, "-NAK")) == 1


async def test_a_callback_that_lets_a_cancelled_error_out_has_failed_and_the_next_is_called(logs: list[Any]) -> None:
    got: list[bytes] = []

    async def callback(messages: list[Message], error: MemphisWorkerError | None) -> None:
        for message in messages:
            got.append(message.get_data())
            await message.ack()
        other = asyncio.create_task(asyncio.Event().wait())
        await settle()
        other.cancel()
        await other

    async with consuming() as (consumer, broker, transport):
        consumer.consume(callback)
        for body in (b"1", b"2"):
            transport.publish(f"{STATION}.final".encode(), body)
            await broker.until(lambda body=body: got[-1:] == [body])  # type: ignore[misc]
    assert got == [b"1", b"2"]
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["callback.failed"] * 2


async def test_a_callback_that_takes_too_long_at_the_end_is_cancelled(logs: list[Any]) -> None:
    begun = asyncio.Event()

    async def callback(messages: list[Message], error: MemphisWorkerError | None) -> None:
        begun.set()
        await asyncio.sleep(1e6)

    async with consuming() as (consumer, _, transport):
        consumer.consume(callback)
        transport.publish(f"{STATION}.final".encode(), b"1")
        await begun.wait()
        await consumer.end(5)
    assert [log["event"] for log in logs] == ["callback.cancelled"]


async def test_a_consumer_whose_task_ends_unasked_says_so(logs: list[Any]) -> None:
    async def callback(messages: list[Message], error: MemphisWorkerError | None) -> None:
        raise AssertionError

    async with consuming() as (consumer, _, _):
        consumer.consume(callback)
        await settle()
        task = consumer._consuming
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
        await settle()
    assert [(log["event"], log["log_level"]) for log in logs] == [("consumer.ended", "error")]
