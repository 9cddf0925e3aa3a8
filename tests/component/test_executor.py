"""Slots, order, turns, and handlers that raise anything at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from memphis_worker import App, Backoff, Message, Reject, Retry
from memphis_worker.options import WorkerOptions
from memphis_worker.testing import MemoryBroker, TestWorker, VirtualLoop, running

FAST = Backoff(base_s=0.1, jitter=False)


def outcomes(worker: TestWorker) -> list[tuple[int, str]]:
    return [(each.sequence, each.outcome) for each in worker.outcomes]


def no_place_is_lost(worker: TestWorker) -> bool:
    """Every message has freed its place in the window, and every runner its slot."""
    executor = worker.runner.executor
    assert executor is not None
    assert executor._runners == 0
    assert [lane.running for lane in executor.lanes] == [0] * len(executor.lanes)
    return [stream.window.held for stream in worker.runner.streams] == [0] * len(executor.lanes)


class Gauge:
    """How many are inside at once."""

    def __init__(self) -> None:
        self.now = self.peak = self.total = 0

    async def __call__(self, seconds: float) -> None:
        self.now += 1
        self.total += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(seconds)
        self.now -= 1


async def test_a_handler_runs_as_often_at_once_as_its_concurrency_says() -> None:
    app, gauge = App(), Gauge()

    @app.handler(station="orders", concurrency=3)
    async def bill(body: bytes) -> None:
        await gauge(0.1)

    async with running(app) as worker:
        for i in range(30):
            await worker.produce("orders", b"%d" % i)
        await worker.drained()
        assert no_place_is_lost(worker)
    assert (gauge.peak, gauge.total) == (3, 30)


async def test_all_handlers_together_run_as_often_as_the_process_allows() -> None:
    app, gauge = App(), Gauge()

    async def work(body: bytes) -> None:
        await gauge(0.1)

    for name in ("a", "b", "c"):
        app.handler(station=name, group=name, name=name)(work)
    async with running(app, options=WorkerOptions(concurrency=4)) as worker:
        for i in range(20):
            for name in ("a", "b", "c"):
                await worker.produce(name, b"%d" % i)
        await worker.drained()
        assert no_place_is_lost(worker)
    assert (gauge.peak, gauge.total) == (4, 60)


async def test_a_suspended_handler_does_not_block_the_next() -> None:
    app, done, first = App(), [], asyncio.Event()

    @app.handler(station="orders")
    async def bill(body: bytes) -> None:
        if body == b"0":
            await first.wait()
        done.append(body)

    async with running(app) as worker:
        for i in range(20):
            await worker.produce("orders", b"%d" % i)
        await asyncio.sleep(1)
        assert done == [b"%d" % i for i in range(1, 20)]
        first.set()
        await worker.drained()
    assert done[-1] == b"0"


@pytest.mark.parametrize("suspends", [True, False])
async def test_with_one_slot_no_handler_starves_the_other(suspends: bool) -> None:
    app, seen, loop = App(), [], asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    async def work(message: Message) -> None:
        seen.append(message.station)
        loop.advance(0.001)
        if suspends:
            await asyncio.sleep(0.001)

    for name in ("a", "b"):
        app.handler(station=name, group=name, name=name)(work)
    async with running(app, options=WorkerOptions(concurrency=1)) as worker:
        for name in ("a", "b"):
            for i in range(200):
                worker.broker.links[0].transport.publish(f"{name}.final".encode(), b"%d" % i)
        await worker.drained()
    half = seen[:200]
    assert 50 < half.count("a") < 150


async def test_messages_run_in_their_order_with_one_slot() -> None:
    app, seen = App(), []

    @app.handler(station="orders", concurrency=1)
    async def bill(message: Message) -> None:
        if message.sequence % 3 == 0:
            await asyncio.sleep(0.01)
        seen.append(message.sequence)

    async with running(app) as worker:
        for i in range(60):
            await worker.produce("orders", b"%d" % i)
        await worker.drained()
    assert seen == list(range(1, 61))


async def test_a_handler_that_never_suspends_gives_the_loop_a_turn_every_two_milliseconds() -> None:
    app, loop, worst, last = App(), asyncio.get_running_loop(), 0.0, 0.0
    assert isinstance(loop, VirtualLoop)

    @app.handler(station="orders")
    async def bill(body: bytes) -> None:
        loop.advance(0.0005)

    async def watch() -> None:
        nonlocal worst, last
        last = loop.time()
        while True:
            await asyncio.sleep(0)
            worst, last = max(worst, loop.time() - last), loop.time()

    async with running(app) as worker:
        watching = asyncio.create_task(watch())
        for i in range(200):
            worker.broker.links[0].transport.publish(b"orders.final", b"%d" % i)
        while len(worker.outcomes) < 200:
            await asyncio.sleep(0)
        watching.cancel()
    assert 0.0005 <= worst <= 0.0031


# ------------------------------------------------------------------------------- what handlers raise


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        BaseException("bare"),
        TimeoutError("the handler's own"),
        StopAsyncIteration(),
        ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
        Unspeakable(),
        Retry(after_s=0),
        Retry("with a reason"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("suspends", [True, False], ids=["suspended", "at_once"])
async def test_what_a_handler_raises_is_a_failure_of_that_message_only(error: BaseException, suspends: bool) -> None:
    app, failed = App(), []

    @app.handler(station="orders", retry=FAST, max_msg_deliveries=3)
    async def bill(body: bytes) -> None:
        if suspends:
            await asyncio.sleep(0.01)
        if body == b"bad":
            failed.append(body)
            raise error

    async with running(app) as worker:
        for body in (b"good", b"bad", b"good", b"good"):
            await worker.produce("orders", body)
        await worker.drained()
        assert [each.data for each in worker.dead_letters()] == [b"bad"]
        assert worker.dead_letters()[0].error.startswith(type(error).__name__)
        assert no_place_is_lost(worker)
        assert await worker.stop() == 0
    assert len(failed) == 3
    assert sorted(outcomes(worker)) == [
        (1, "success"),
        (2, "dead_letter"),
        (2, "retry"),
        (2, "retry"),
        (3, "success"),
        (4, "success"),
    ]


async def test_a_handler_that_cancels_itself_harms_no_later_message() -> None:
    app, groups = App(), []

    @app.handler(station="orders", concurrency=1, retry=FAST, max_msg_deliveries=1)
    async def bill(body: bytes) -> None:
        if body == b"cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.sleep(1)
        except ExceptionGroup:
            groups.append(body)

    async def fail() -> None:
        raise ValueError("x")

    async with running(app) as worker:
        await worker.produce("orders", b"cancel")
        await worker.produce("orders", b"next")
        await worker.drained()
    assert groups == [b"next"]
    assert outcomes(worker) == [(2, "success"), (1, "dead_letter")] or outcomes(worker) == [
        (1, "dead_letter"),
        (2, "success"),
    ]


@pytest.mark.parametrize("after_s", [float("inf"), 1e30, -5, float("nan")])
async def test_no_pause_that_a_handler_asks_for_can_break_the_worker(after_s: float) -> None:
    app = App()

    @app.handler(station="orders", max_msg_deliveries=2)
    async def bill(body: bytes) -> None:
        raise Retry("later", after_s=after_s)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        assert no_place_is_lost(worker)
        assert worker.dead_letters()[0].error.startswith("InvalidOption: Retry: after_s is")


async def test_a_handler_may_settle_by_itself() -> None:
    app = App()

    @app.handler(station="orders", max_msg_deliveries=2)
    async def bill(message: Message) -> None:
        if message.data == b"ack":
            await message.ack()
        elif message.data == b"nak" and message.deliveries == 1:
            await message.nak(delay_s=3)
        elif message.data == b"reject":
            await message.reject("no")
        elif message.data == b"then fail":
            await message.ack()
            raise ValueError("too late")

    async with running(app) as worker:
        for body in (b"ack", b"nak", b"reject", b"then fail"):
            await worker.produce("orders", body)
        await worker.drained()
        assert worker.dead_letters() == []
        assert no_place_is_lost(worker)
    assert sorted(outcomes(worker)) == [(1, "success"), (2, "retry"), (2, "success"), (3, "reject"), (4, "success")]


async def test_what_a_handler_acked_by_itself_is_not_run_again_when_the_ack_is_lost() -> None:
    app, runs = App(), []

    @app.handler(station="orders", max_ack_time_ms=1000)
    async def bill(message: Message) -> None:
        runs.append(message.sequence)
        await message.ack()

    async with running(app) as worker:
        worker.broker.lose_acks()
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.5)
        worker.broker.lose_acks(False)
        await worker.drained()
    assert runs == [1]
    assert outcomes(worker) == [(1, "success"), (1, "skip")]


async def test_a_pause_that_is_no_number_is_a_failure_like_any_other() -> None:
    app = App()

    @app.handler(station="orders", max_msg_deliveries=1)
    async def bill(body: bytes) -> None:
        raise Retry("later", after_s="5")  # type: ignore[arg-type]

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        assert worker.dead_letters()[0].error.startswith("InvalidOption: Retry: after_s is '5'")
        assert no_place_is_lost(worker)


async def test_a_timeout_is_a_retry_and_on_the_last_attempt_a_dead_letter() -> None:
    app, ended = App(), []

    @app.handler(station="orders", timeout_s=0.5, retry=FAST, max_msg_deliveries=2)
    async def bill(body: bytes) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(asyncio.get_running_loop().time())

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        (dead,) = worker.dead_letters()
    assert (dead.reason, len(ended)) == ("timeout", 2)
    assert "timeout_s of 0.5 s" in dead.error
    assert outcomes(worker) == [(1, "retry"), (1, "dead_letter")]


async def test_idle_holds_after_a_batch_of_which_nothing_had_to_run() -> None:
    app, runs = App(), []

    @app.handler(station="orders", max_ack_time_ms=1000)
    async def bill(body: bytes) -> None:
        runs.append(body)

    async with running(app) as worker:
        worker.broker.lose_acks()
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        worker.broker.lose_acks(False)
        await worker.drained()
        assert outcomes(worker) == [(1, "success"), (1, "skip")]
        executor = worker.runner.executor
        assert executor is not None
        async with asyncio.timeout(1):
            await executor.idle()


# ------------------------------------------------------------------------------- plain functions


def threaded(app: App, function: Callable[[bytes], object], **options: object) -> None:
    app.handler(station="orders", group="bill", name="bill", **options)(function)  # type: ignore[arg-type]


async def test_plain_functions_run_in_threads_at_once() -> None:
    app, barrier, names = App(), threading.Barrier(4, timeout=5), set()

    def bill(body: bytes) -> None:
        barrier.wait()
        names.add(threading.current_thread().name)

    threaded(app, bill, concurrency=4)
    async with running(app) as worker:
        for i in range(8):
            await worker.produce("orders", b"%d" % i)
        await worker.drained()
    assert len(names) == 4
    assert "MainThread" not in names


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), SystemExit(1), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_plain_function_raises_is_a_failure_of_that_message_only(error: BaseException) -> None:
    app = App()

    def bill(body: bytes) -> None:
        if body == b"bad":
            raise error

    threaded(app, bill, retry=FAST, max_msg_deliveries=2)
    async with running(app) as worker:
        for body in (b"bad", b"good"):
            await worker.produce("orders", body)
        await worker.drained()
        assert [each.data for each in worker.dead_letters()] == [b"bad"]
        assert no_place_is_lost(worker)


async def test_a_thread_keeps_its_message_leased_however_long_it_takes() -> None:
    app, release, runs = App(), threading.Event(), []

    def bill(body: bytes) -> None:
        runs.append(body)
        release.wait(10)

    threaded(app, bill, max_ack_time_ms=1000)
    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(5)
        release.set()
        await worker.drained()
    assert runs == [b"x"]
    assert outcomes(worker) == [(1, "success")]


async def test_rejects_and_results_of_plain_functions_count() -> None:
    app = App()

    def bill(body: bytes) -> int:
        raise Reject("not ours")

    threaded(app, bill)
    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        assert worker.dead_letters()[0].reason == "rejected"


async def test_the_broker_is_not_needed_twice_for_two_apps_in_a_row() -> None:
    broker = MemoryBroker()
    for _ in range(2):
        app, seen = App(), []

        @app.handler(station="orders", group="bill")
        async def bill(body: bytes, seen: list[bytes] = seen) -> None:
            seen.append(body)

        async with running(app, broker=broker) as worker:
            await worker.produce("orders", b"x")
            await worker.drained()
            assert seen == [b"x"]
