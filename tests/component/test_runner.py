"""The life of a worker: it starts, stops under load, and says how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from memphis_worker import App, Backoff, Context, Message
from memphis_worker.errors import BrokerRefused, Differs, MemphisWorkerError, Missing, UsageError
from memphis_worker.options import GroupOptions, StationOptions, WorkerOptions
from memphis_worker.runtime.binding import DEAD_STATION
from memphis_worker.testing import MemoryBroker, TestWorker, VirtualLoop, running
from memphis_worker.testing.plane import MemoryPlane


def events(logs: list[Any]) -> list[str]:
    return [each["event"] for each in logs]


def slow(seconds: float = 1.0, **options: Any) -> tuple[App, list[int]]:
    app, done = App(), []

    @app.handler(station="orders", group="bill", **options)
    async def bill(message: Message) -> None:
        await asyncio.sleep(seconds)
        done.append(message.sequence)

    return app, done


# ------------------------------------------------------------------------------------ start


async def test_a_start_declares_stations_groups_and_the_dead_letter_station(logs: list[Any]) -> None:
    app, _ = slow(station_options=StationOptions(retention_value=60), max_msg_deliveries=4, max_ack_time_ms=7000)
    async with running(app) as worker:
        broker = worker.broker
        assert broker.station("orders").options.retention_value == 60
        assert broker.station(DEAD_STATION).options == StationOptions(
            retention_value=14 * 86_400, dedup_enabled=True, dedup_window_ms=3_600_000
        )
        group = broker.group("orders", "bill")
        assert (group.ack_wait_s, group.max_deliver) == (7.0, 8)
        assert (worker.status.state, worker.status.groups, worker.status.bound) == ("running", 1, 1)
        assert worker.status.connected
    assert worker.status.state == "stopped"
    assert events(logs) == [
        "worker.starting",
        "consumer.bound",
        "broker.connected",
        "worker.started",
        "worker.stopping",
        "worker.drained",
        "worker.stopped",
    ]


@pytest.mark.parametrize(("attempts", "allowed"), [(1, 5), (6, 10), (10, 10)])
async def test_the_broker_is_told_a_limit_behind_ours_and_ten_at_most(attempts: int, allowed: int) -> None:
    app, _ = slow(max_msg_deliveries=attempts)
    async with running(app) as worker:
        assert worker.broker.group("orders", "bill").max_deliver == allowed


async def test_a_group_that_allows_fewer_deliveries_is_refused_and_not_changed() -> None:
    broker = MemoryBroker()
    plane = MemoryPlane(broker)
    await plane.create_station("orders", StationOptions())
    await plane.create_consumer("orders", "m", "bill", GroupOptions(max_msg_deliveries=3))
    app, _ = slow(max_msg_deliveries=5)
    with pytest.raises(Differs, match="it allows 3 deliveries, max_msg_deliveries is 5"):
        async with running(app, broker=broker):
            pass
    assert broker.group("orders", "bill").max_deliver == 3


async def test_a_station_that_differs_is_refused_and_not_changed() -> None:
    broker = MemoryBroker()
    await MemoryPlane(broker).create_station("orders", StationOptions(replicas=3))
    app, _ = slow(station_options=StationOptions(replicas=2))
    with pytest.raises(Differs, match="replicas is 3, asked for 2"):
        async with running(app, broker=broker):
            pass
    assert broker.station("orders").options.replicas == 3


async def test_a_broker_that_is_down_is_tried_until_it_is_up(logs: list[Any]) -> None:
    broker = MemoryBroker()
    broker.up = False
    asyncio.get_running_loop().call_later(300, broker.start)
    app, _ = slow()
    began = asyncio.get_running_loop().time()
    async with running(app, broker=broker) as worker:
        assert 300 <= asyncio.get_running_loop().time() - began < 310
        assert worker.status.state == "running"
    assert [each["log_level"] for each in logs if each["event"] == "broker.unreachable"].count("warning") == 1


async def test_a_stop_while_the_broker_is_down_ends_it_with_0() -> None:
    broker = MemoryBroker()
    broker.up = False
    app, _ = slow()
    worker = TestWorker(app, broker, WorkerOptions(), [])
    starting = asyncio.create_task(worker.start())
    await asyncio.sleep(60)
    assert await worker.stop() == 0
    await starting


async def test_the_lifespan_is_around_everything() -> None:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        app.state.db = "open"
        seen.append("open")
        yield
        seen.append("closed")

    app = App(lifespan=lifespan)

    @app.handler(station="orders")
    async def bill(body: bytes, context: Context) -> None:
        seen.append(f"{context.state.db} {context.handler.rpartition('.')[2]} {context.attempt} {context.stopping}")

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
    assert seen == ["open", "open bill 1 False", "closed"]


async def test_a_lifespan_that_fails_ends_the_worker_with_its_error() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    app = App(lifespan=lifespan)
    app.handler(station="orders", group="g")(print_nothing)
    with pytest.raises(RuntimeError, match="no database"):
        async with running(app):
            pass


async def print_nothing(body: bytes) -> None: ...


async def test_an_app_without_handlers_has_nothing_to_run() -> None:
    with pytest.raises(UsageError, match="has no handler; there is nothing to run"):
        async with running(App()):
            pass


async def test_only_the_chosen_handlers_run() -> None:
    app = App()
    app.handler(station="a", name="x.a", group="g")(print_nothing)
    app.handler(station="b", name="x.b", group="g")(print_nothing)
    async with running(app, options=WorkerOptions(handlers=("b",))) as worker:
        assert [each.name for each in worker.handlers] == ["x.b"]
        assert "a" not in worker.broker.streams


async def test_an_app_that_does_not_run_cannot_produce() -> None:
    app, _ = slow()
    async with running(app) as worker:
        pass
    with pytest.raises(MemphisWorkerError, match="is not running"):
        await worker.produce("orders", b"x")


# ------------------------------------------------------------------------------------- stop


@pytest.mark.parametrize("latency_s", [0.0, 0.02])
async def test_a_stop_under_load_loses_nothing_and_strands_nothing(latency_s: float) -> None:
    broker = MemoryBroker(latency_s=latency_s)
    app, done = slow(0.05, concurrency=8, max_ack_time_ms=30_000)
    async with running(app, broker=broker) as worker:
        for i in range(500):
            broker.links[0].transport.publish(b"orders.final", b"%d" % i)
        await broker.until(lambda: len(done) > 100)
        assert await worker.stop() == 0
    group = broker.group("orders", "bill")
    assert group.flying.keys() <= set(group.again), "all that was not finished is free for somebody else at once"
    assert len(done) == len(set(done)) == 500 - len(group.waiting) - len(group.flying)
    second, rest = slow(0.05, concurrency=8)
    async with running(second, broker=broker) as worker:
        await worker.drained()
    assert sorted(done + rest) == list(range(1, 501))


async def test_running_handlers_are_waited_for_and_kept_leased() -> None:
    app, done = slow(10, max_ack_time_ms=1000)
    async with running(app) as worker:
        for i in range(3):
            await worker.produce("orders", b"%d" % i)
        await asyncio.sleep(0.1)
        assert await worker.stop() == 0
    assert sorted(done) == [1, 2, 3]
    assert worker.broker.group("orders", "bill").deliveries == {1: 1, 2: 1, 3: 1}


async def test_after_the_shutdown_timeout_handlers_are_cancelled_and_messages_handed_back(logs: list[Any]) -> None:
    app, done = slow(100)
    async with running(app, options=WorkerOptions(shutdown_timeout_s=5)) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        assert await worker.stop() == 4
        assert 5 <= asyncio.get_running_loop().time() - began < 7
    assert done == []
    assert [each.outcome for each in worker.outcomes] == ["cancelled"]
    assert worker.failures == []
    assert list(worker.broker.group("orders", "bill").again) == [1]
    (drained,) = [each for each in logs if each["event"] == "worker.drained"]
    assert (drained["cancelled"], drained["stranded"], drained["at_once"]) == (1, 0, False)


async def test_a_second_signal_hands_back_at_once() -> None:
    app, done = slow(100)
    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        assert await worker.stop(at_once=True) == 4
        assert asyncio.get_running_loop().time() - began < 0.5
    assert done == []
    assert list(worker.broker.group("orders", "bill").again) == [1]


async def test_a_second_signal_with_nothing_to_do_is_code_0() -> None:
    app, _ = slow()
    async with running(app) as worker:
        assert await worker.stop(at_once=True) == 0


async def test_a_handler_that_swallows_its_cancel_is_left_behind_and_its_message_handed_back() -> None:
    app, loop = App(), asyncio.get_running_loop()

    @app.handler(station="orders")
    async def bill(body: bytes) -> None:
        until = loop.time() + 100
        while loop.time() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(until - loop.time())

    async with running(app, options=WorkerOptions(shutdown_timeout_s=1)) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        assert await worker.stop() == 4
        assert list(worker.broker.group("orders", "bill").again) == [1]
        await asyncio.sleep(200)
    assert [each.outcome for each in worker.outcomes] == ["cancelled"], "one outcome, also when it returns at last"


async def test_a_thread_that_does_not_end_is_left_behind_and_its_message_handed_back() -> None:
    app, release = App(), threading.Event()

    def bill(body: bytes) -> None:
        release.wait(5)

    app.handler(station="orders", group="bill")(bill)
    async with running(app, options=WorkerOptions(shutdown_timeout_s=0.2)) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        assert await worker.stop() == 4
        release.set()
    assert list(worker.broker.group("orders", "bill").again) == [1]


def last_delivery(broker: MemoryBroker, sequences: range) -> None:
    """As if the broker had delivered them nine times already."""
    for sequence in sequences:
        broker.group("orders", "bill").deliveries[sequence] = 9


async def test_a_cancelled_last_delivery_is_a_dead_letter_for_the_broker_would_never_deliver_it_again() -> None:
    app, _ = slow(100)
    broker = MemoryBroker()
    async with running(app, broker=broker):
        pass
    last_delivery(broker, range(1, 2))
    async with running(app, broker=broker, options=WorkerOptions(shutdown_timeout_s=1)) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        assert await worker.stop() == 4
        assert [each.reason for each in worker.dead_letters()] == ["exhausted"]
    assert broker.group("orders", "bill").exhausted == []


async def test_what_waits_on_its_last_delivery_is_run_before_the_stop() -> None:
    app, done = slow(0.001, concurrency=1)
    broker = MemoryBroker()
    async with running(app, broker=broker):
        pass
    last_delivery(broker, range(1, 101))
    async with running(app, broker=broker) as worker:
        for i in range(100):
            broker.links[-1].transport.publish(b"orders.final", b"%d" % i)
        await broker.until(lambda: len(done) > 30)
        assert await worker.stop() == 0
    assert broker.group("orders", "bill").exhausted == []


async def test_what_waits_on_its_last_delivery_is_a_dead_letter_when_there_is_no_time_to_run_it() -> None:
    app, loop = App(), asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    @app.handler(station="orders", concurrency=1)
    async def bill(message: Message) -> None:
        if message.sequence < 200:
            loop.advance(0.001)
            return
        until = loop.time() + 100
        while loop.time() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(until - loop.time())

    broker = MemoryBroker()
    async with running(app, broker=broker):
        pass
    last_delivery(broker, range(200, 221))
    async with running(app, broker=broker, options=WorkerOptions(shutdown_timeout_s=1)) as worker:
        for i in range(220):
            broker.links[-1].transport.publish(b"orders.final", b"%d" % i)
        await asyncio.sleep(1)
        group = broker.group("orders", "bill")
        held = sorted(group.flying)
        assert held[0] == 200
        assert len(held) > 2
        assert await worker.stop(at_once=True) == 4
        assert sorted(each.sequence for each in worker.dead_letters()) == held
    assert group.exhausted == []


async def test_a_stop_while_disconnected_ends_with_4_and_the_messages_return_by_themselves() -> None:
    app, _ = slow(100, max_ack_time_ms=20_000)
    async with running(app, options=WorkerOptions(shutdown_timeout_s=1)) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        worker.broker.stop()
        assert await worker.stop() == 4
    worker.broker.start()
    await worker.broker.until(lambda: list(worker.broker.group("orders", "bill").again) == [1])


async def test_a_stop_that_was_asked_for_during_the_start_pulls_nothing() -> None:
    app, done = slow()
    broker = MemoryBroker()
    plane = MemoryPlane(broker)
    await plane.create_station("orders", StationOptions())
    worker = TestWorker(app, broker, WorkerOptions(), [])
    worker.stopper.request("early")
    await worker.start()
    assert await worker.ended() == 0
    assert done == []


# ----------------------------------------------------------------------------------- faults


async def test_a_deleted_group_ends_the_worker_after_its_handlers_with_code_3(logs: list[Any]) -> None:
    app, done = slow(5)
    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        worker.broker.delete_group("orders", "bill")
        with pytest.raises(Missing, match="was deleted while it was consumed") as caught:
            await worker.ended()
    assert caught.value.exit_code == 3
    assert done == [1]
    assert "bill" not in worker.broker.station("orders").groups, "it is never made again silently"
    assert worker.status.bound == 0


async def test_two_deleted_groups_are_counted_once_each() -> None:
    app = App()
    for name in ("a", "b"):
        app.handler(station=name, name=name, group="g")(print_nothing)
    async with running(app) as worker:
        worker.broker.delete_group("a", "g")
        worker.broker.delete_group("b", "g")
        with pytest.raises(Missing):
            await worker.ended()
        assert worker.status.bound == 0


async def test_a_pull_loop_that_fails_ends_the_worker_with_its_error() -> None:
    broker = MemoryBroker()
    broker.denied = "_INBOX"
    app, _ = slow()
    with pytest.raises(BrokerRefused, match="permissions violation"):
        async with running(app, broker=broker) as worker:
            await worker.ended()


@pytest.mark.parametrize("fault", ["cut", "restart", "silence", "lost acks", "leader", "forgotten acks"])
async def test_faults_under_load_lose_nothing_and_never_exceed_the_window(fault: str) -> None:
    app = App()
    counts: dict[int, int] = {}
    broker = MemoryBroker(latency_s=0.002)

    @app.handler(station="orders", group="bill", concurrency=5, max_ack_time_ms=2000, retry=Backoff(base_s=0.1))
    async def bill(message: Message) -> None:
        counts[message.sequence] = counts.get(message.sequence, 0) + 1
        await asyncio.sleep(0.05)
        if message.sequence % 50 == 0 and message.deliveries == 1:
            raise ValueError("now and then")

    async def harm() -> None:
        while True:
            await asyncio.sleep(0.5)
            match fault:
                case "cut":
                    broker.cut()
                case "restart":
                    broker.restart()
                case "forgotten acks":
                    broker.restart(forgotten_acks=10)
                case "silence":
                    broker.go_silent()
                    await asyncio.sleep(15)
                case "lost acks":
                    broker.lose_acks()
                    await asyncio.sleep(0.2)
                    broker.lose_acks(False)
                case "leader":
                    broker.end_pulls("orders", "bill", "409 Leadership Change")

    async with running(app, broker=broker) as worker:
        (stream,) = worker.runner.streams
        for _ in range(400):
            broker.links[0].transport.publish(b"orders.final", b"x")
        await asyncio.sleep(0.1)
        harming = asyncio.create_task(harm())
        peak = window = 0

        def watched() -> bool:
            nonlocal peak, window
            peak, window = max(peak, stream.window.held), max(window, stream.window.size)
            return len(broker.station("orders").messages) == 400 and broker.group("orders", "bill").idle

        await broker.until(watched, 600)
        harming.cancel()
        assert peak <= window <= 10
        assert await worker.stop() == 0
        assert worker.dead_letters() == []
    assert counts.keys() == set(range(1, 401))
    again = sum(counts.values()) - 400 - 8
    assert again <= (120 if fault == "silence" else 20), "runs twice only what nobody could know was done"
