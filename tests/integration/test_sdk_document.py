"""What the SDK document shows, in its shapes: with its defaults, awaited where it awaits and not where it does not."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from memphis_worker.client.connection import Memphis
from memphis_worker.client.jetstream import consumer_info, stream_info
from memphis_worker.client.message import Message
from memphis_worker.embedded import EmbeddedBroker
from memphis_worker.errors import MemphisWorkerError, Missing
from memphis_worker.options import retention_types, storage_types


async def test_connecting_with_ports_as_text_in_try_and_finally(broker: EmbeddedBroker) -> None:
    memphis = Memphis()
    try:
        await memphis.connect(
            host="localhost",
            username="root",
            connection_token=broker.token,
            management_port=str(broker.management_port),
            tcp_port=str(broker.tcp_port),
            data_port=str(broker.data_port),
            reconnect=True,
            max_reconnect=10,
            reconnect_interval_ms=1500,
            timeout_ms=1500,
        )
        assert memphis.connected
    finally:
        await memphis.close()
    assert not memphis.connected


async def test_a_failed_connect_is_printed_and_closed(broker: EmbeddedBroker) -> None:
    memphis = Memphis()
    printed: list[str] = []
    try:
        await memphis.connect(
            host="localhost",
            username="nobody",
            connection_token=broker.token,
            management_port=broker.management_port,
            tcp_port=broker.tcp_port,
            data_port=broker.data_port,
        )
    except Exception as e:
        printed.append(str(e))
    finally:
        await memphis.close()
    assert "User is not exist" in printed[0]


async def test_the_types_are_names_of_the_client_and_of_the_package() -> None:
    memphis = Memphis()
    assert memphis.retention_types.MAX_MESSAGE_AGE_SECONDS == retention_types.MAX_MESSAGE_AGE_SECONDS
    assert memphis.retention_types.MESSAGES == retention_types.MESSAGES
    assert memphis.retention_types.BYTES == retention_types.BYTES
    assert memphis.storage_types.FILE == storage_types.FILE
    assert memphis.storage_types.MEMORY == storage_types.MEMORY


async def test_the_life_of_an_application_as_the_document_tells_it(memphis: Memphis, name: str) -> None:
    factory = memphis.factory(name=f"{name}f", description="")
    station = memphis.station(
        name=name,
        factory_name=f"{name}f",
        retention_type=retention_types.MAX_MESSAGE_AGE_SECONDS,
        retention_value=604800,
        storage_type=storage_types.FILE,
        replicas=1,
        dedup_enabled=False,
        dedup_window_ms=0,
    )
    prod = memphis.producer(station_name=name, producer_name="producer")
    await prod.produce(message=bytearray("a message", "utf-8"), ack_wait_sec=15)
    consumer = memphis.consumer(
        station_name=name,
        consumer_name="consumer",
        consumer_group="group",
        pull_interval_ms=1000,
        batch_size=10,
        batch_max_time_to_wait_ms=5000,
        max_ack_time_ms=30000,
        max_msg_deliveries=10,
    )
    got: list[bytes] = []
    came = asyncio.Event()

    async def msg_handler(msgs: list[Message], error: MemphisWorkerError | None) -> None:
        for msg in msgs:
            got.append(msg.get_data())
            await msg.ack()
        if error:
            got.append(str(error).encode())
        came.set()

    consumer.consume(msg_handler)
    async with asyncio.timeout(20):
        await came.wait()
    assert got == [b"a message"]

    transport = memphis._transport
    assert transport is not None
    assert (await stream_info(transport, name)).storage == "file"
    info = await consumer_info(transport, name, "group")
    assert (info.ack_wait_s, info.max_deliver) == (30.0, 10)

    # None of them awaited, but for the factory's: they end in this order all the same.
    consumer.destroy()
    prod.destroy()
    station.destroy()
    await factory.destroy()
    try:
        await stream_info(transport, name)
    except Missing:
        return
    raise AssertionError("the station is still there")


async def test_the_same_calls_awaited(memphis: Memphis, name: str) -> None:
    factory = await memphis.factory(name=f"{name}f", description="")
    station = await memphis.station(name=name, factory_name=f"{name}f")
    producer = await memphis.producer(station_name=name, producer_name="producer")
    consumer = await memphis.consumer(station_name=name, consumer_name="consumer")
    assert await consumer.consume(_ignore) is consumer
    await consumer.destroy()
    await producer.destroy()
    await station.destroy()
    await factory.destroy()


async def test_with_only_the_names_the_defaults_hold(memphis: Memphis, name: str) -> None:
    memphis.station(name)
    consumer = await memphis.consumer(name, "consumer")
    assert consumer.consumer_group == "consumer"
    transport = memphis._transport
    assert transport is not None
    info = await consumer_info(transport, name, "consumer")
    assert (info.ack_wait_s, info.max_deliver) == (30.0, 10)


async def test_a_dedup_window_is_written_with_an_equals_sign(memphis: Memphis, name: str) -> None:
    """The document's `dedup_window_ms: 0` is a typing error of its own; this is what it means."""
    await memphis.station(name=name, dedup_enabled=True, dedup_window_ms=500)
    transport = memphis._transport
    assert transport is not None
    assert (await stream_info(transport, name)).dedup_window_s == 0.5


async def test_nothing_awaited_and_closed_at_once_is_done_and_quiet(broker: EmbeddedBroker, name: str) -> None:
    memphis = Memphis()
    await memphis.connect(url=broker.url)
    with capture_logs() as logs:
        factory = memphis.factory(f"{name}f")
        station = memphis.station(name, f"{name}f")
        producer = memphis.producer(name, "p")
        consumer = memphis.consumer(name, "c")
        consumer.consume(_ignore)
        consumer.destroy()
        producer.destroy()
        station.destroy()
        factory.destroy()
        await memphis.close()
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


async def _ignore(msgs: list[Message], error: MemphisWorkerError | None) -> None:
    pass
