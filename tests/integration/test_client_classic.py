"""The client against a real nats-server and the control plane of Memphis 0.3.0."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from client_rig import Cable, connect
from structlog.testing import capture_logs

from memphis_worker.client.connection import Memphis
from memphis_worker.client.consumer import Consumer
from memphis_worker.client.control.classic import ClassicPlane
from memphis_worker.client.control.dead_letters import Poisoned
from memphis_worker.client.jetstream import (
    consumer_info,
    consumers,
    delete_message,
    group_lag,
    message_at,
    stream_info,
    streams,
)
from memphis_worker.client.message import Message
from memphis_worker.client.transport import Transport
from memphis_worker.embedded import EmbeddedBroker
from memphis_worker.errors import (
    AlreadyExists,
    AuthenticationFailed,
    BrokerRefused,
    ConnectionClosed,
    Disconnected,
    InvalidName,
    InvalidOption,
    MemphisWorkerError,
    Missing,
    NotReachable,
    PayloadTooLarge,
    ProduceFailed,
    RequestTimeout,
    UsageError,
)
from memphis_worker.options import ConnectOptions, GroupOptions, StationOptions, retention_types, storage_types

Given = tuple[list[Message], MemphisWorkerError | None]


def transport_of(memphis: Memphis) -> Transport:
    assert memphis._transport is not None
    return memphis._transport


def plane_of(memphis: Memphis) -> ClassicPlane:
    assert isinstance(memphis._plane, ClassicPlane)
    return memphis._plane


async def until(watch: Callable[[Callable[[], None]], Callable[[], None]], reached: Callable[[], bool]) -> None:
    """Waits on somebody's `on_change` until something holds."""
    changed = asyncio.Event()
    unwatch = watch(changed.set)
    try:
        async with asyncio.timeout(20):
            while not reached():
                await changed.wait()
                changed.clear()
    finally:
        unwatch()


class Calls:
    """A callback that keeps what it was given, acks it if told to, and lets a test wait for it."""

    def __init__(self, *, ack: bool = True) -> None:
        self._ack = ack
        self._came = asyncio.Event()
        self.calls: list[Given] = []
        self.times: list[float] = []

    async def __call__(self, messages: list[Message], error: MemphisWorkerError | None) -> None:
        self.calls.append((messages, error))
        self.times.append(asyncio.get_running_loop().time())
        if self._ack:
            for message in messages:
                await message.ack()
        self._came.set()

    @property
    def bodies(self) -> list[bytes]:
        return [message.get_data() for messages, _ in self.calls for message in messages]

    @property
    def errors(self) -> list[MemphisWorkerError]:
        return [error for _, error in self.calls if error is not None]

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not reached():
                await self._came.wait()
                self._came.clear()


# ------------------------------------------------------------------------ signing in


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"connection_token": "wrong-token"}, "authorization violation"),
        ({"username": "ghost"}, "User is not exist"),
    ],
)
async def test_a_wrong_token_or_user_is_refused_with_the_words_of_the_broker(
    broker: EmbeddedBroker, options: dict[str, object], words: str
) -> None:
    with pytest.raises(AuthenticationFailed, match=words) as caught:
        await connect(broker, **options)
    assert "wrong-token" not in str(caught.value)


async def test_a_management_user_is_refused(broker: EmbeddedBroker, memphis: Memphis, name: str) -> None:
    await plane_of(memphis)._http.post(
        "/api/usermgmt/addUser", "add user", {"username": name, "user_type": "management", "password": "secret"}
    )
    with pytest.raises(AuthenticationFailed, match="Root/Application and not Management"):
        await connect(broker, username=name)


async def test_an_application_user_signs_in(broker: EmbeddedBroker, memphis: Memphis, name: str) -> None:
    await plane_of(memphis)._http.post(
        "/api/usermgmt/addUser", "add user", {"username": name, "user_type": "application"}
    )
    other = await connect(broker, username=name)
    assert other.connected
    await other.close()


async def test_the_host_may_be_a_web_address_and_ports_may_be_text(broker: EmbeddedBroker) -> None:
    ports = {"management_port": str(broker.management_port), "tcp_port": str(broker.tcp_port)}
    memphis = await connect(broker, host="https://localhost/", data_port=str(broker.data_port), **ports)
    assert memphis.connected
    await memphis.close()


async def test_a_url_says_the_same(broker: EmbeddedBroker, name: str) -> None:
    async with Memphis() as memphis:
        await memphis.connect(url=broker.url, timeout_ms=10_000)
        await memphis.station(name)
    assert not memphis.connected


@pytest.mark.parametrize("port", ["tcp_port", "data_port"])
async def test_a_port_where_nobody_listens_is_named(broker: EmbeddedBroker, port: str) -> None:
    async with Cable(0) as cable:
        pass
    with pytest.raises(NotReachable, match=f"{cable.port}.*{port}"):
        await connect(broker, **{port: cable.port})


async def test_a_management_port_where_nobody_listens_is_named_at_the_first_create(
    broker: EmbeddedBroker, name: str
) -> None:
    async with Cable(0) as cable:
        pass
    memphis = await connect(broker, management_port=cable.port)
    with pytest.raises(NotReachable, match=f"{cable.port} .management_port."):
        await memphis.station(name)
    await memphis.close()


async def test_a_native_broker_is_recognised_by_its_greeting(broker: EmbeddedBroker) -> None:
    with pytest.raises(BrokerRefused, match="native Memphis broker"):
        await connect(broker, tcp_port=broker.data_port)


async def test_http_on_the_control_port_is_recognised(broker: EmbeddedBroker) -> None:
    with pytest.raises((BrokerRefused, NotReachable), match="tcp_port"):
        await connect(broker, tcp_port=broker.management_port, timeout_ms=1000)


async def test_calls_before_connect_and_after_close_say_so(broker: EmbeddedBroker, name: str) -> None:
    memphis = Memphis()
    await memphis.close()
    with pytest.raises(ConnectionClosed, match="not connected"):
        memphis.station(name)
    memphis = await connect(broker)
    producer = memphis.producer(name, "p")
    consumer = memphis.consumer(name, "c")
    await consumer
    await memphis.close()
    with pytest.raises(ConnectionClosed):
        await producer.produce(b"x")
    with pytest.raises(ConnectionClosed):
        await consumer.fetch()
    with pytest.raises(ConnectionClosed, match="not connected"):
        memphis.consumer(name, "c")


async def test_connecting_twice_is_an_error(memphis: Memphis) -> None:
    with pytest.raises(UsageError, match="already connected"):
        await memphis.connect(host="localhost")


async def test_closing_leaves_no_task_behind(broker: EmbeddedBroker, name: str) -> None:
    before = asyncio.all_tasks()
    memphis = await connect(broker)
    consumer = memphis.consumer(name, "c", batch_max_time_to_wait_ms=30_000)
    calls = Calls()
    consumer.consume(calls)
    await memphis.producer(name, "p").produce(b"x")
    await calls.until(lambda: calls.bodies == [b"x"])
    await memphis.close()
    assert asyncio.all_tasks() == before


# ------------------------------------------------------------------- stations, factories


async def test_a_station_keeps_the_number_of_messages_it_was_made_for(memphis: Memphis, name: str) -> None:
    await memphis.station(name, retention_type=memphis.retention_types.MESSAGES, retention_value=3)
    producer = memphis.producer(name, "p")
    for number in range(5):
        await producer.produce(f"m{number}")
    info = await stream_info(transport_of(memphis), name)
    assert (info.messages, info.first_sequence, info.max_messages) == (3, 3, 3)


async def test_a_station_keeps_the_number_of_bytes_it_was_made_for(memphis: Memphis, name: str) -> None:
    await memphis.station(name, retention_type=retention_types.BYTES, retention_value=5000)
    producer = memphis.producer(name, "p")
    for _ in range(5):
        await producer.produce(bytes(2000))
    info = await stream_info(transport_of(memphis), name)
    assert info.max_bytes == 5000
    assert info.messages == 2
    assert info.bytes <= 5000


async def test_a_station_keeps_messages_as_long_as_it_was_made_for(memphis: Memphis, name: str) -> None:
    await memphis.station(name, retention_value=60)
    info = await stream_info(transport_of(memphis), name)
    assert (info.max_age_s, info.max_messages, info.max_bytes) == (60.0, -1, -1)


async def test_the_defaults_are_those_of_the_document(memphis: Memphis, name: str) -> None:
    await memphis.station(name)
    info = await stream_info(transport_of(memphis), name)
    assert (info.storage, info.max_age_s, info.replicas) == ("memory", 604_800.0, 1)
    assert info.dedup_window_s == 0.1
    found = await plane_of(memphis).station(name)
    assert found is not None
    assert (found.storage_type, found.dedup_enabled, found.dedup_window_ms) == ("memory", False, 0)


async def test_a_station_may_be_on_disk(memphis: Memphis, name: str) -> None:
    await memphis.station(name, storage_type=memphis.storage_types.FILE)
    assert (await stream_info(transport_of(memphis), name)).storage == storage_types.FILE


async def test_more_replicas_than_servers_are_refused_with_the_words_of_the_broker(memphis: Memphis, name: str) -> None:
    with pytest.raises(BrokerRefused, match="replicas > 1 not supported in non-clustered mode"):
        await memphis.station(name, replicas=3)


async def test_a_message_id_that_comes_twice_in_the_window_is_stored_once(memphis: Memphis, name: str) -> None:
    await memphis.station(name, dedup_enabled=True, dedup_window_ms=60_000)
    producer = memphis.producer(name, "p")
    first = await producer.produce(b"a", msg_id="1")
    again = await producer.produce(b"a", msg_id="1")
    other = await producer.produce(b"a", msg_id="2")
    assert [first.duplicate, again.duplicate, other.duplicate] == [False, True, False]
    assert again.sequence == first.sequence
    info = await stream_info(transport_of(memphis), name)
    assert (info.messages, info.dedup_window_s) == (2, 60.0)


async def test_equal_messages_without_an_id_are_all_stored(memphis: Memphis, name: str) -> None:
    await memphis.station(name, dedup_enabled=True, dedup_window_ms=60_000)
    producer = memphis.producer(name, "p")
    acks = [await producer.produce(b"same") for _ in range(3)]
    assert [ack.sequence for ack in acks] == [1, 2, 3]


async def test_a_station_that_exists_is_found_unchanged(memphis: Memphis, name: str) -> None:
    await memphis.station(name, retention_type=retention_types.MESSAGES, retention_value=3)
    station = await memphis.station(name.upper(), storage_type=storage_types.FILE)
    assert station.name == name
    info = await stream_info(transport_of(memphis), name)
    assert (info.max_messages, info.storage) == (3, "memory")


async def test_a_factory_is_destroyed_with_its_stations(memphis: Memphis, name: str) -> None:
    factory = memphis.factory(f"{name}f", description="for one test")
    await memphis.station(name, factory_name=f"{name}f")
    await memphis.factory(f"{name}f")
    assert name in [info.name for info in await plane_of(memphis).stations() if info.factory_name == f"{name}f"]
    await factory.destroy()
    assert await plane_of(memphis).station(name) is None
    with pytest.raises(Missing):
        await stream_info(transport_of(memphis), name)


async def test_a_missing_station_cannot_be_destroyed(memphis: Memphis, name: str) -> None:
    station = await memphis.station(name)
    await station.destroy()
    await station.destroy()
    again = await memphis.station(name)
    await plane_of(memphis).destroy_station(name)
    with pytest.raises(Missing, match="Station does not exist"):
        await again.destroy()


async def test_a_bad_name_is_refused_before_the_broker_is_asked(memphis: Memphis) -> None:
    with pytest.raises(InvalidName):
        memphis.station("a-b")
    with pytest.raises(InvalidName):
        memphis.producer("a", "p.q")


# ------------------------------------------------------------------------- producing


async def test_a_message_carries_the_headers_that_memphis_wants_in_its_order(memphis: Memphis, name: str) -> None:
    producer = memphis.producer(name.upper(), "P1")
    ack = await producer.produce(bytearray(b"body"), headers={"x": "1"}, msg_id="id-1")
    stored = await message_at(transport_of(memphis), name, ack.sequence)
    connection_id = plane_of(memphis).connection_id
    assert (stored.subject, stored.data) == (f"{name}.final", b"body")
    assert (
        stored.headers
        == (
            f"NATS/1.0\r\nNats-Msg-Id: id-1\r\nproducedBy: p1\r\nconnectionId: {connection_id}\r\n"
            "msg-id: id-1\r\nx: 1\r\n\r\n"
        ).encode()
    )


@pytest.mark.parametrize("header", ["Nats-Rollup", "nats-msg-id", "producedBy", "ConnectionId", "msg-id"])
async def test_headers_that_the_broker_reads_are_refused(memphis: Memphis, name: str, header: str) -> None:
    producer = memphis.producer(name, "p")
    with pytest.raises(InvalidOption, match=header):
        await producer.produce(b"x", headers={header: "all"})


async def test_text_is_sent_as_utf_8_and_other_objects_are_refused(memphis: Memphis, name: str) -> None:
    producer = memphis.producer(name, "p")
    ack = await producer.produce("é")
    assert (await message_at(transport_of(memphis), name, ack.sequence)).data == "é".encode()
    with pytest.raises(InvalidOption, match="is a dict"):
        await producer.produce({})  # type: ignore[arg-type]


async def test_a_message_beyond_the_limit_is_refused_and_the_connection_stays(memphis: Memphis, name: str) -> None:
    producer = memphis.producer(name, "p")
    with pytest.raises(PayloadTooLarge):
        await producer.produce(bytes(transport_of(memphis).max_payload))
    assert (await producer.produce(b"small")).sequence == 1


async def test_producing_to_a_destroyed_station_fails(memphis: Memphis, name: str) -> None:
    station = memphis.station(name)
    producer = await memphis.producer(name, "p")
    await station.destroy()
    with pytest.raises(ProduceFailed, match="does not exist"):
        await producer.produce(b"x")


async def test_ack_wait_sec_bounds_the_wait_for_the_confirmation(name: str) -> None:
    async with EmbeddedBroker() as broker:
        memphis = await connect(broker)
        producer = await memphis.producer(name, "p")
        pid = broker.nats_server_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            begun = asyncio.get_running_loop().time()
            with pytest.raises(ProduceFailed, match=r"within 0\.3 s"):
                await producer.produce(b"x", ack_wait_sec=0.3)
            assert asyncio.get_running_loop().time() - begun < 3
        finally:
            os.kill(pid, signal.SIGCONT)
        await memphis.close()


async def test_a_destroyed_producer_says_so(memphis: Memphis, name: str) -> None:
    producer = memphis.producer(name, "p")
    await producer.destroy()
    with pytest.raises(Missing, match="was destroyed"):
        await producer.produce(b"x")
    await memphis.producer(name, "p")


# ------------------------------------------------------------------------- consuming


async def produce(memphis: Memphis, station: str, count: int) -> None:
    producer = memphis.producer(station, f"p_{count}")
    for number in range(count):
        await producer.produce(f"m{number}")


async def test_members_of_a_group_share_its_messages_and_groups_do_not(memphis: Memphis, name: str) -> None:
    one = memphis.consumer(name, "one", consumer_group="shared")
    two = memphis.consumer(name, "two", consumer_group="shared")
    other = memphis.consumer(name, "other")
    await produce(memphis, name, 6)
    mine = await one.fetch(3)
    yours = await two.fetch(10)
    assert sorted(m.get_data() for m in mine + yours) == [b"m%d" % n for n in range(6)]
    assert [m.get_data() for m in await other.fetch()] == [b"m%d" % n for n in range(6)]
    assert [info.name for info in await consumers(transport_of(memphis), name)] == ["other", "shared"]


async def test_batch_size_is_the_most_that_one_call_gets_and_pull_interval_the_time_between(
    memphis: Memphis, name: str
) -> None:
    await produce(memphis, name, 5)
    consumer = memphis.consumer(name, "c", batch_size=2, pull_interval_ms=300)
    calls = Calls()
    consumer.consume(calls)
    await calls.until(lambda: len(calls.bodies) == 5)
    assert [len(messages) for messages, _ in calls.calls] == [2, 2, 1]
    assert all(later - earlier >= 0.25 for earlier, later in zip(calls.times, calls.times[1:], strict=False))


async def test_fetch_gets_what_is_there_at_once_and_waits_only_for_the_first(memphis: Memphis, name: str) -> None:
    consumer = memphis.consumer(name, "c", batch_max_time_to_wait_ms=20_000)
    time = asyncio.get_running_loop().time
    await produce(memphis, name, 3)
    begun = time()
    assert len(await consumer.fetch(10)) == 3
    waiting = asyncio.create_task(consumer.fetch(10))
    await produce(memphis, name, 1)
    assert len(await waiting) == 1
    assert time() - begun < 10


async def test_an_idle_station_is_no_error_and_lasts_batch_max_time_to_wait(memphis: Memphis, name: str) -> None:
    consumer = await memphis.consumer(name, "c", batch_max_time_to_wait_ms=400)
    begun = asyncio.get_running_loop().time()
    assert await consumer.fetch() == []
    assert 0.3 <= asyncio.get_running_loop().time() - begun < 3


async def test_an_unacked_message_comes_again_after_max_ack_time(memphis: Memphis, name: str) -> None:
    consumer = await memphis.consumer(name, "c", max_ack_time_ms=700)
    await produce(memphis, name, 1)
    time = asyncio.get_running_loop().time
    (first,) = await consumer.fetch()
    begun = time()
    (second,) = await consumer.fetch()
    assert 0.5 <= time() - begun < 4
    assert (first.deliveries, second.deliveries) == (1, 2)
    await second.ack()


async def test_nak_brings_it_again_and_reject_does_not(memphis: Memphis, name: str) -> None:
    consumer = await memphis.consumer(name, "c", batch_max_time_to_wait_ms=500)
    await produce(memphis, name, 1)
    (message,) = await consumer.fetch()
    assert await message.nak()
    (message,) = await consumer.fetch()
    assert message.deliveries == 2
    assert await message.extend()
    assert await message.reject("no")
    assert await consumer.fetch() == []


async def test_a_message_that_uses_up_its_deliveries_is_listed_and_comes_again_when_resent(
    memphis: Memphis, name: str
) -> None:
    plane = plane_of(memphis)
    consumer = await memphis.consumer(
        name, "c", "g", max_ack_time_ms=300, max_msg_deliveries=2, pull_interval_ms=50, batch_max_time_to_wait_ms=500
    )
    await produce(memphis, name, 1)
    calls = Calls(ack=False)
    consumer.consume(calls)
    listed: list[Poisoned] = []
    async with asyncio.timeout(20):
        while not listed or not listed[0].groups:  # The broker tells nobody when it has recorded one.
            listed = await plane.poisoned(name)
    assert [message.deliveries for messages, _ in calls.calls for message in messages] == [1, 2]
    (record,) = listed
    assert (record.station, record.sequence, record.preview) == (name, 1, "m0")
    assert [(group.group, group.deliveries) for group in record.groups] == [("g", 2)]
    await plane.resend_poisoned([record.id])
    await calls.until(lambda: len(calls.calls) == 3)
    (again,) = calls.calls[-1][0]
    assert again.resent
    assert (again.get_data(), again.headers) == (b"m0", {"producedBy": "$memphis_dlq"})
    await again.ack()
    await plane.drop_poisoned([record.id])
    assert await plane.poisoned(name) == []


async def test_fetch_returns_resent_messages_too(memphis: Memphis, name: str) -> None:
    consumer = memphis.consumer(name, "c", "g", batch_max_time_to_wait_ms=100)
    assert await consumer.fetch() == []
    transport = transport_of(memphis)
    transport.publish(f"$memphis_dlq_{name}_g".encode(), b"again")
    await transport.barrier(5)
    (message,) = await consumer.fetch()
    assert message.resent
    assert message.get_data() == b"again"
    await message.ack()


async def test_an_exception_in_the_callback_is_logged_and_ends_nothing(memphis: Memphis, name: str) -> None:
    calls = Calls()

    async def callback(messages: list[Message], error: MemphisWorkerError | None) -> None:
        await calls(messages, error)
        if len(calls.calls) == 1:
            raise ValueError("a bug of the user")

    consumer = memphis.consumer(name, "c", pull_interval_ms=10)
    with capture_logs() as logs:
        consumer.consume(callback)
        producer = memphis.producer(name, "p")
        await producer.produce(b"1")
        await calls.until(lambda: calls.bodies == [b"1"])
        await producer.produce(b"2")
        await calls.until(lambda: calls.bodies == [b"1", b"2"])
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["callback.failed"]


async def test_destroy_stops_messages_at_once_and_takes_the_last_members_group_along(
    memphis: Memphis, name: str
) -> None:
    calls = Calls()
    consumer = memphis.consumer(name, "c", pull_interval_ms=10)
    consumer.consume(calls)
    producer = memphis.producer(name, "p")
    await producer.produce(b"1")
    await calls.until(lambda: calls.bodies == [b"1"])
    gone = consumer.destroy()
    with pytest.raises(Missing, match="was destroyed"):
        await consumer.fetch()
    with pytest.raises(Missing, match="was destroyed"):
        consumer.consume(calls)
    await gone
    with pytest.raises(Missing):
        await consumer_info(transport_of(memphis), name, "c")
    assert calls.bodies == [b"1"]


async def test_destroy_may_be_called_from_the_callback(memphis: Memphis, name: str) -> None:
    destroyed = asyncio.Event()

    async def callback(messages: list[Message], error: MemphisWorkerError | None) -> None:
        for message in messages:
            await message.ack()
        await consumer.destroy()
        destroyed.set()

    consumer = memphis.consumer(name, "c")
    consumer.consume(callback)
    await produce(memphis, name, 1)
    async with asyncio.timeout(20):
        await destroyed.wait()


async def test_a_group_that_others_destroy_is_the_last_call(memphis: Memphis, name: str) -> None:
    calls = Calls()
    station = memphis.station(name)
    consumer = memphis.consumer(name, "c", pull_interval_ms=10)
    consumer.consume(calls)
    await produce(memphis, name, 1)
    await calls.until(lambda: len(calls.bodies) == 1)
    await station.destroy()
    await calls.until(lambda: bool(calls.errors))
    assert isinstance(calls.errors[0], Missing)
    with pytest.raises(Missing):
        await consumer.fetch()


async def test_closing_keeps_the_group_and_its_progress(broker: EmbeddedBroker, memphis: Memphis, name: str) -> None:
    await memphis.station(name)
    await produce(memphis, name, 2)
    other = await connect(broker)
    async with other.consumer(name, "c", "g") as consumer:
        (message,) = await consumer.fetch(1)
        await message.ack()
        await transport_of(other).barrier(5)
    with pytest.raises(ConnectionClosed, match="was closed"):
        await consumer.fetch()
    await other.close()
    again = await memphis.consumer(name, "c", "g")
    assert [m.get_data() for m in await again.fetch()] == [b"m1"]


async def test_an_ack_just_before_close_reaches_the_broker(broker: EmbeddedBroker, memphis: Memphis, name: str) -> None:
    other = await connect(broker)
    consumer = await other.consumer(name, "c", "g")
    await produce(other, name, 5)
    for message in await consumer.fetch():
        await message.ack()
    await other.close()
    async with asyncio.timeout(20):
        while True:  # The server has read the acks, and counts them in a moment; their redelivery would take 30 s.
            lag = await group_lag(transport_of(memphis), name, "g")
            if (lag.waiting, lag.in_flight) == (0, 0):
                break


async def test_close_may_be_called_from_the_callback(broker: EmbeddedBroker, name: str) -> None:
    other = await connect(broker)
    closed = asyncio.Event()

    async def callback(messages: list[Message], error: MemphisWorkerError | None) -> None:
        await other.close()
        closed.set()

    other.consumer(name, "c").consume(callback)
    await produce(other, name, 1)
    async with asyncio.timeout(20):
        await closed.wait()


async def test_close_may_be_called_from_the_callback_of_a_resent_message(broker: EmbeddedBroker, name: str) -> None:
    other = await connect(broker)
    closed = asyncio.Event()

    async def callback(messages: list[Message], error: MemphisWorkerError | None) -> None:
        await consumer.close()
        await other.close()
        closed.set()

    consumer = other.consumer(name, "c", "g", batch_max_time_to_wait_ms=30_000)
    await consumer.consume(callback)
    transport = transport_of(other)
    await transport.barrier(5)
    while consumer._subscription is None:
        await asyncio.sleep(0)
    transport.publish(f"$memphis_dlq_{name}_g".encode(), b"again")
    async with asyncio.timeout(20):
        await closed.wait()


async def test_iteration_gives_message_by_message_and_gives_back_the_rest(memphis: Memphis, name: str) -> None:
    consumer = memphis.consumer(name, "c")
    await produce(memphis, name, 4)
    async with contextlib.aclosing(consumer.__aiter__()) as messages:  # type: ignore[type-var]
        seen = []
        async for message in messages:
            await message.ack()
            seen.append(message.get_data())
            if len(seen) == 2:
                break
    assert seen == [b"m0", b"m1"]
    again = await consumer.fetch()
    while len(again) < 2:
        again += await consumer.fetch()
    assert [(m.get_data(), m.deliveries) for m in again] == [(b"m2", 2), (b"m3", 2)]


async def test_iteration_ends_when_the_consumer_is_destroyed(memphis: Memphis, name: str) -> None:
    consumer = memphis.consumer(name, "c")
    await produce(memphis, name, 1)
    seen = 0
    async for message in consumer:
        seen += 1
        await message.ack()
        consumer.destroy()
    assert seen == 1


async def test_one_callback_at_a_time(memphis: Memphis, name: str) -> None:
    consumer = memphis.consumer(name, "c")
    consumer.consume(Calls())
    with pytest.raises(UsageError, match="consumes already"):
        consumer.consume(Calls())


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"pull_interval_ms": -1}, {"batch_max_time_to_wait_ms": 0}, {"max_ack_time_ms": 0}],
)
async def test_an_option_out_of_range_is_named(memphis: Memphis, name: str, options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        memphis.consumer(name, "c", **options)  # type: ignore[arg-type]


async def test_a_name_in_use_is_refused_with_what_to_do_and_free_when_its_client_is_gone(
    broker: EmbeddedBroker, memphis: Memphis, name: str
) -> None:
    other = await connect(broker)
    await other.consumer(name, "c", "g")
    await other.producer(name, "p")
    with pytest.raises(AlreadyExists, match="choose another one"):
        await memphis.consumer(name, "c", "g")
    with pytest.raises(AlreadyExists, match="choose another one"):
        await memphis.producer(name, "p")
    await other.close()
    async with asyncio.timeout(20):
        while True:  # The broker sees the end of the other session some milliseconds later.
            try:
                await memphis.consumer(name, "c", "g")
                break
            except AlreadyExists:
                continue


async def test_an_existing_group_keeps_its_own_ack_wait(memphis: Memphis, name: str) -> None:
    await memphis.consumer(name, "one", "g", max_ack_time_ms=5000, max_msg_deliveries=3)
    two = await memphis.consumer(name, "two", "g", max_ack_time_ms=60_000, max_msg_deliveries=7)
    assert two._pullable is not None
    assert (two._pullable.ack_wait_s, two._pullable.max_deliver) == (5.0, 3)


async def test_more_than_ten_deliveries_become_ten_on_a_classic_broker(memphis: Memphis, name: str) -> None:
    joined = await plane_of(memphis).create_consumer(name, "c", "g", GroupOptions(max_msg_deliveries=50))
    info = await consumer_info(transport_of(memphis), name, "g")
    assert joined[0].max_deliver == info.max_deliver == 10
    assert joined[0].resent_subject == f"$memphis_dlq_{name}_g"


# ------------------------------------------------------------------ awaited and not


async def test_an_error_that_nobody_awaited_comes_with_the_first_use(memphis: Memphis, name: str) -> None:
    station = memphis.station(name, replicas=3)
    with pytest.raises(BrokerRefused, match="replicas"):
        await station.destroy()
    with pytest.raises(BrokerRefused, match="replicas"):
        await station


async def test_an_error_that_nobody_awaited_is_given_to_the_callback(
    broker: EmbeddedBroker, memphis: Memphis, name: str
) -> None:
    other = await connect(broker)
    await other.consumer(name, "c")
    calls = Calls()
    memphis.consumer(name, "c").consume(calls)
    await calls.until(lambda: bool(calls.errors))
    assert isinstance(calls.errors[0], AlreadyExists)
    assert calls.calls[0][0] == []
    await other.close()


async def test_an_error_that_nobody_ever_asked_for_is_logged_by_close(broker: EmbeddedBroker, name: str) -> None:
    memphis = await connect(broker)
    memphis.station(name, replicas=3)
    with capture_logs() as logs:
        await memphis.close()
    (failed,) = [entry for entry in logs if entry["event"] == "operation.failed"]
    assert failed["operation"] == f"create station '{name}'"
    assert "replicas > 1 not supported" in failed["error"]


async def test_close_waits_for_what_was_started(broker: EmbeddedBroker, memphis: Memphis, name: str) -> None:
    other = await connect(broker)
    station = other.station(name)
    await other.close()
    assert await plane_of(memphis).station(name) is not None
    other = await connect(broker)
    station = other.station(name)
    station.destroy()
    await other.close()
    assert await plane_of(memphis).station(name) is None


async def test_handles_are_context_managers_that_destroy_nothing(memphis: Memphis, name: str) -> None:
    async with (
        memphis.factory(f"{name}f") as factory,
        memphis.station(name, factory.name) as station,
        memphis.producer(station.name, "p") as producer,
    ):
        await producer.produce(b"x")
    assert (await stream_info(transport_of(memphis), name)).messages == 1


# ---------------------------------------------------------------------- reconnecting


@pytest.fixture
async def cables(broker: EmbeddedBroker) -> AsyncIterator[tuple[Cable, Cable]]:
    async with Cable(broker.tcp_port) as control, Cable(broker.data_port) as data:
        yield control, data


async def test_a_lost_control_channel_comes_back_under_the_same_id(
    broker: EmbeddedBroker, cables: tuple[Cable, Cable], name: str
) -> None:
    control, _ = cables
    memphis = await connect(broker, tcp_port=control.port, reconnect=True, reconnect_interval_ms=10)
    plane = plane_of(memphis)
    await memphis.consumer(name, "c")
    known = plane.connection_id
    control.cut()
    await until(plane.on_change, lambda: not plane.connected)
    await until(plane.on_change, lambda: plane.connected)
    assert plane.connection_id == known
    with pytest.raises(AlreadyExists):  # The member is still ours: it was revived, not made again.
        await memphis.consumer(name, "c")
    await memphis.producer(name, "p")
    await memphis.close()


async def test_messages_flow_while_the_control_channel_is_down(
    broker: EmbeddedBroker, cables: tuple[Cable, Cable], name: str
) -> None:
    control, _ = cables
    memphis = await connect(
        broker, tcp_port=control.port, reconnect=True, max_reconnect=-1, reconnect_interval_ms=10, timeout_ms=1000
    )
    plane = plane_of(memphis)
    producer, consumer = await memphis.producer(name, "p"), await memphis.consumer(name, "c")
    await control.tear()
    await until(plane.on_change, lambda: not plane.connected)
    await producer.produce(b"x")
    assert [m.get_data() for m in await consumer.fetch()] == [b"x"]
    with pytest.raises(Disconnected, match="try again"):
        await memphis.station(f"{name}2")
    await control.mend()
    await until(plane.on_change, lambda: plane.connected)
    await memphis.station(f"{name}2")
    await memphis.close()


async def test_without_reconnect_a_lost_control_channel_ends_creates(
    broker: EmbeddedBroker, cables: tuple[Cable, Cable], name: str
) -> None:
    control, _ = cables
    memphis = await connect(broker, tcp_port=control.port)
    plane = plane_of(memphis)
    control.cut()
    await until(plane.on_change, lambda: not plane.connected)
    with pytest.raises(ConnectionClosed, match="reconnect is off"):
        await memphis.station(name)
    await memphis.close()


async def test_max_reconnect_attempts_are_made_and_no_more(
    broker: EmbeddedBroker, cables: tuple[Cable, Cable], name: str
) -> None:
    control, _ = cables
    memphis = await connect(
        broker, tcp_port=control.port, reconnect=True, max_reconnect=3, reconnect_interval_ms=10, timeout_ms=20_000
    )
    plane = plane_of(memphis)
    await control.tear()
    await until(plane.on_change, lambda: not plane.connected)
    with pytest.raises(ConnectionClosed, match="3 attempts"):
        await memphis.station(name)
    await memphis.close()


async def test_without_reconnect_a_lost_data_connection_ends_calls(
    broker: EmbeddedBroker, cables: tuple[Cable, Cable], name: str
) -> None:
    _, data = cables
    memphis = await connect(broker, data_port=data.port)
    producer, consumer = await memphis.producer(name, "p"), await memphis.consumer(name, "c")
    transport = transport_of(memphis)
    data.cut()
    await until(transport.on_change, lambda: transport.closed)
    with pytest.raises(ConnectionClosed):
        await producer.produce(b"x")
    with pytest.raises(ConnectionClosed):
        await consumer.fetch()
    with pytest.raises(ConnectionClosed):
        memphis.station(name)
    await memphis.close()


async def test_without_reconnect_the_callback_is_told_that_it_is_over(
    broker: EmbeddedBroker, cables: tuple[Cable, Cable], name: str
) -> None:
    _, data = cables
    memphis = await connect(broker, data_port=data.port)
    calls = Calls()
    memphis.consumer(name, "c", pull_interval_ms=10).consume(calls)
    await memphis.producer(name, "p").produce(b"x")
    await calls.until(lambda: calls.bodies == [b"x"])
    data.cut()
    await calls.until(lambda: bool(calls.errors))
    assert isinstance(calls.errors[0], ConnectionClosed)
    await memphis.close()


async def test_consuming_and_producing_go_on_after_a_lost_data_connection(
    broker: EmbeddedBroker, cables: tuple[Cable, Cable], name: str
) -> None:
    _, data = cables
    memphis = await connect(broker, data_port=data.port, reconnect=True, reconnect_interval_ms=20)
    calls = Calls()
    memphis.consumer(name, "c", pull_interval_ms=10).consume(calls)
    producer = memphis.producer(name, "p")
    for number in range(3):
        await producer.produce(f"m{number}")
        await calls.until(lambda: f"m{number}".encode() in calls.bodies)  # noqa: B023
        data.cut()
        transport = transport_of(memphis)
        await until(transport.on_change, lambda: transport.epoch == number + 2 and transport.connected)  # noqa: B023
    await producer.produce(b"last")
    await calls.until(lambda: b"last" in calls.bodies)
    assert set(calls.bodies) == {b"m0", b"m1", b"m2", b"last"}
    await memphis.close()


async def test_an_outage_is_told_once_and_a_produce_waits_for_it_to_end(
    broker: EmbeddedBroker, cables: tuple[Cable, Cable], name: str
) -> None:
    _, data = cables
    memphis = await connect(broker, data_port=data.port, reconnect=True, max_reconnect=-1, reconnect_interval_ms=20)
    calls = Calls()
    consumer = memphis.consumer(name, "c", pull_interval_ms=10, batch_max_time_to_wait_ms=100)
    await consumer.consume(calls)
    producer = await memphis.producer(name, "p")
    transport = transport_of(memphis)
    await data.tear()
    await until(transport.on_change, lambda: not transport.connected)
    with pytest.raises(Disconnected):
        await producer.produce(b"lost", ack_wait_sec=0.5)
    await calls.until(lambda: bool(calls.errors))
    waiting = asyncio.create_task(producer.produce(b"late", ack_wait_sec=20))
    await data.mend()
    await waiting
    await calls.until(lambda: calls.bodies == [b"late"])
    assert [type(error) for error in calls.errors] == [Disconnected]
    await memphis.close()


async def test_a_restarted_broker_that_kept_its_records_gets_its_session_back(tmp_path: Path, name: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = EmbeddedBroker(directory=tmp_path)
        await first.start()
        ports = {
            "management_port": first.management_port,
            "tcp_port": first.tcp_port,
            "data_port": first.data_port,
        }
        memphis = await connect(first, reconnect=True, max_reconnect=-1, reconnect_interval_ms=50)
        stack.push_async_callback(memphis.close)
        await memphis.station(name, storage_type=storage_types.FILE)
        producer, consumer = await memphis.producer(name, "p"), await memphis.consumer(name, "c")
        plane, known = plane_of(memphis), plane_of(memphis).connection_id
        await first.close()
        await until(plane.on_change, lambda: not plane.connected)
        await stack.enter_async_context(EmbeddedBroker(directory=tmp_path, **ports))  # type: ignore[arg-type]
        await until(plane.on_change, lambda: plane.connected)
        assert plane.connection_id == known
        await producer.produce(b"x")
        assert [m.get_data() for m in await consumer.fetch()] == [b"x"]
        await consumer.destroy()
        await producer.destroy()


async def test_members_are_made_again_at_a_broker_that_lost_its_records(tmp_path: Path, name: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = EmbeddedBroker(directory=tmp_path / "1")
        (tmp_path / "1").mkdir()
        await first.start()
        ports = {
            "management_port": first.management_port,
            "tcp_port": first.tcp_port,
            "data_port": first.data_port,
        }
        memphis = await connect(first, reconnect=True, max_reconnect=-1, reconnect_interval_ms=50)
        stack.push_async_callback(memphis.close)
        await memphis.producer(name, "p")
        consumer = await memphis.consumer(name, "c")
        await (await memphis.producer(name, "gone")).destroy()
        plane, known = plane_of(memphis), plane_of(memphis).connection_id
        await first.close()
        (tmp_path / "2").mkdir()
        await stack.enter_async_context(EmbeddedBroker(directory=tmp_path / "2", **ports))  # type: ignore[arg-type]
        await until(plane.on_change, lambda: plane.connected and plane.connection_id != known)
        assert plane._restoring is not None
        await asyncio.wait({plane._restoring})
        made = await plane._http.read("/api/producers/getAllProducers", "list producers")
        assert isinstance(made, list)
        assert [(item["name"], item["connection_id"]) for item in made] == [("p", plane.connection_id)]
        assert [info.name for info in await consumers(transport_of(memphis), name)] == ["c"]
        assert consumer.consumer_name == "c"


async def test_the_access_token_is_renewed_before_it_runs_out(name: str) -> None:
    async with EmbeddedBroker(jwt_expires_in_s=2, ping_interval_ms=600) as broker:
        memphis = await connect(broker)
        session = plane_of(memphis)._session
        first = session.token
        await until(session.on_change, lambda: session.token != first)
        second = session.token
        await until(session.on_change, lambda: session.token != second)
        await memphis.station(name)
        await memphis.close()


async def test_a_token_that_the_broker_does_not_take_is_renewed_once(memphis: Memphis, name: str) -> None:
    session = plane_of(memphis)._session
    assert session._grant is not None
    session._grant = replace(session._grant, access_token="stale.stale.stale")
    await memphis.station(name)
    assert session.token != "stale.stale.stale"


async def test_a_session_that_the_broker_swept_signs_in_again_before_the_next_create(name: str) -> None:
    async with EmbeddedBroker() as broker:
        memphis = await connect(broker, reconnect=True, reconnect_interval_ms=10)
        plane, known = plane_of(memphis), plane_of(memphis).connection_id
        await memphis.producer(name, "p")
        broker.sweep(2**63)
        await memphis.producer(name, "q")
        assert plane.connection_id == known
        broker.sweep(2**63)
        consumer, producer = memphis.consumer(name, "c"), memphis.producer(name, "r")
        await consumer
        await producer
        broker.sweep(2**63)
        await consumer.destroy()
        broker.sweep(2**63)
        await producer.destroy()
        assert plane.connection_id == known
        await memphis.close()


async def test_consuming_goes_on_after_a_crash_of_the_nats_server(name: str) -> None:
    async with EmbeddedBroker() as broker:
        memphis = await connect(broker, reconnect=True, max_reconnect=-1, reconnect_interval_ms=50)
        await memphis.station(name, storage_type=storage_types.FILE)
        calls = Calls()
        memphis.consumer(name, "c", pull_interval_ms=10).consume(calls)
        producer = await memphis.producer(name, "p")
        await producer.produce(b"1")
        await calls.until(lambda: b"1" in calls.bodies)
        transport, pid = transport_of(memphis), broker.nats_server_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(transport.on_change, lambda: not transport.connected)
        await until(transport.on_change, lambda: transport.connected)
        async with asyncio.timeout(20):
            while True:  # Connected comes before JetStream is up.
                with contextlib.suppress(ProduceFailed, Disconnected):
                    await producer.produce(b"2", ack_wait_sec=2)
                    break
        await calls.until(lambda: b"2" in calls.bodies)
        await memphis.close()


# ------------------------------------------------------------------ a broker that is ill


async def test_a_broker_that_does_not_answer_in_time_is_named_with_the_option(
    broker: EmbeddedBroker, name: str
) -> None:
    over = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(NotReachable, match=rf"{port} .tcp_port. did not answer within 0\.2 s"):
        await connect(broker, tcp_port=port, timeout_ms=200)
    memphis = await connect(broker, management_port=port, timeout_ms=1000)
    with pytest.raises(RequestTimeout, match=r"timeout_ms=1000.*it may have been done"):
        await memphis.station(name)
    await memphis.close()
    over.set()
    server.close()
    await server.wait_closed()


async def test_a_management_port_that_hangs_up_or_is_no_memphis_says_so(broker: EmbeddedBroker, name: str) -> None:
    answers = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", b"HTTP/1.1 404 Not Found\r\n\r\n"]

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()

    server = await asyncio.start_server(odd, "127.0.0.1", 0)
    memphis = await connect(broker, management_port=server.sockets[0].getsockname()[1])
    with pytest.raises(Disconnected, match="broke"):
        await memphis.station(name)
    with pytest.raises(BrokerRefused, match="not JSON"):
        await memphis.station(name)
    with pytest.raises(BrokerRefused, match="check management_port"):
        await memphis.station(name)
    await memphis.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("reconnect", [False, True])
async def test_a_group_whose_durable_is_lost_is_refused_and_can_be_made_again(
    broker: EmbeddedBroker, name: str, reconnect: bool
) -> None:
    memphis = await connect(broker, reconnect=reconnect)
    transport = transport_of(memphis)
    one = await memphis.consumer(name, "one", "g")
    await transport.request(f"$JS.API.CONSUMER.DELETE.{name}.g", timeout_s=5)
    with pytest.raises(Missing, match="consumer not found"):
        await one.fetch()
    two = memphis.consumer(name, "two", "g")
    with pytest.raises(BrokerRefused, match="did not make its group"):
        await two
    await plane_of(memphis).destroy_consumer(name, "one")
    await plane_of(memphis).destroy_consumer(name, "two")
    assert await (await memphis.consumer(name, "three", "g", batch_max_time_to_wait_ms=100)).fetch() == []
    await memphis.close()


# ----------------------------------------------------------------------- JetStream


async def test_lag_counts_what_waits_and_what_is_in_flight(memphis: Memphis, name: str) -> None:
    transport = transport_of(memphis)
    consumer = await memphis.consumer(name, "c", "g")
    lag = await group_lag(transport, name, "g")
    assert (lag.waiting, lag.in_flight, lag.redelivered, lag.oldest_age_s) == (0, 0, 0, None)
    await produce(memphis, name, 3)
    first, second = await consumer.fetch(2)
    lag = await group_lag(transport, name, "g")
    assert (lag.station, lag.group, lag.waiting, lag.in_flight, lag.redelivered) == (name, "g", 1, 2, 0)
    assert lag.oldest_age_s is not None
    assert 0 <= lag.oldest_age_s < 60
    await second.ack()
    await first.nak()
    held = await consumer.fetch()
    while not any(message.deliveries == 2 for message in held):
        held += await consumer.fetch()
    lag = await group_lag(transport, name, "g")
    assert (lag.waiting, lag.in_flight, lag.redelivered) == (0, 2, 1)


async def test_what_does_not_exist_is_missing(memphis: Memphis, name: str) -> None:
    transport = transport_of(memphis)
    with pytest.raises(Missing, match="stream not found"):
        await stream_info(transport, name)
    with pytest.raises(Missing):
        await group_lag(transport, name, "g")
    await memphis.station(name)
    with pytest.raises(Missing, match="consumer not found"):
        await group_lag(transport, name, "g")
    with pytest.raises(Missing, match="no message found"):
        await message_at(transport, name, 1)
    assert name in [info.name for info in await streams(transport)]
    assert await consumers(transport, name) == []


async def test_a_message_can_be_deleted_from_its_stream(memphis: Memphis, name: str) -> None:
    transport = transport_of(memphis)
    await memphis.station(name)
    await produce(memphis, name, 2)
    await delete_message(transport, name, 1)
    assert (await message_at(transport, name, 1, next_on=f"{name}.final")).sequence == 2


async def test_streams_are_listed_over_pages(memphis: Memphis, name: str) -> None:
    await memphis.station(name)
    joined = [memphis.consumer(name, f"c{number}") for number in range(260)]
    await joined[-1]
    found = await consumers(transport_of(memphis), name)
    assert len(found) == 260


# ---------------------------------------------------------------- the plane on its own


async def test_a_plane_makes_and_finds_stations(broker: EmbeddedBroker, name: str) -> None:
    plane = ClassicPlane(ConnectOptions.from_url(broker.url, {}))
    data = await plane.open()
    assert (data.servers, data.token) == ((f"nats://127.0.0.1:{broker.data_port}",), broker.token)
    assert "token" not in repr(data)
    assert await plane.station(name) is None
    assert await plane.create_station(name.upper(), StationOptions(factory_name=f"{name}f")) == name
    info = await plane.station(name)
    assert info is not None
    assert (info.retention_type, info.retention_value, info.storage_type) == ("message_age_sec", 604_800, "file")
    await plane.destroy_factory(f"{name}f")
    with pytest.raises(Missing):
        await plane.destroy_producer(name, "p")
    with pytest.raises(Missing):
        await plane.destroy_consumer(name, "c")
    await plane.close()
    await plane.close()
    assert not plane.connected


async def test_a_consumer_is_what_its_repr_says(memphis: Memphis, name: str) -> None:
    consumer: Consumer = memphis.consumer(name, "C1", "G1")
    assert repr(consumer) == f"<Consumer c1 of {name}/g1>"
    assert (consumer.station_name, consumer.consumer_name, consumer.consumer_group) == (name, "c1", "g1")
