"""What this process has finished already is acked again and not run again."""

from __future__ import annotations

import asyncio

import pytest

from memphis_worker import App, Backoff, Message
from memphis_worker.handler import Handler
from memphis_worker.runtime.instrument import Instrument
from memphis_worker.testing import TestWorker, running

FAST = Backoff(base_s=0.1, jitter=False)


def verbs(worker: TestWorker) -> list[str]:
    return [each.verb for each in worker.broker.answers("orders", "bill")]


def outcomes(worker: TestWorker) -> list[tuple[int, str]]:
    return [(each.sequence, each.outcome) for each in worker.outcomes]


async def test_a_redelivery_of_what_is_done_is_acked_and_not_run() -> None:
    app, runs = App(), []

    @app.handler(station="orders")
    async def bill(body: bytes) -> None:
        runs.append(body)

    async with running(app) as worker:
        for i in range(20):
            await worker.produce("orders", b"%d" % i)
        await worker.drained()
        worker.broker.restart(forgotten_acks=20)
        await worker.drained()
    assert len(runs) == 20
    assert [each.outcome for each in worker.outcomes] == ["success"] * 20 + ["skip"] * 20


async def test_an_ack_while_disconnected_arrives_after_the_reconnect() -> None:
    app, runs = App(), []

    @app.handler(station="orders")
    async def bill(body: bytes) -> None:
        runs.append(body)
        await asyncio.sleep(0.5)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        worker.broker.stop()
        await asyncio.sleep(1)
        worker.broker.start()
        await worker.drained()
    assert runs == [b"x"]
    assert outcomes(worker) == [(1, "success")]


async def test_a_stream_that_was_made_anew_starts_with_messages_that_are_not_done() -> None:
    app, runs = App(), []

    @app.handler(station="orders", group="bill")
    async def bill(message: Message) -> None:
        runs.append(message.data)

    async with running(app) as worker:
        await worker.produce("orders", b"old")
        await worker.drained()
        await asyncio.sleep(10)
        stream = worker.broker.station("orders")
        stream.messages.clear()
        stream.last = 0
        await worker.produce("orders", b"new")
        await worker.drained()
    assert runs == [b"old", b"new"]


async def test_an_ack_that_cannot_be_written_is_told_and_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app, runs, failed = App(), [], []

    class Watching(Instrument):
        def settle_failed(self, handler: Handler, operation: str) -> None:
            failed.append(operation)

    @app.handler(station="orders", group="bill", max_ack_time_ms=3000)
    async def bill(message: Message) -> None:
        runs.append(message.sequence)
        await asyncio.sleep(0.5)

    async with running(app, instruments=[Watching()]) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        worker.broker.stop()
        monkeypatch.setattr("memphis_worker.testing.link.PENDING_BYTES", -1)
        await asyncio.sleep(1)
        monkeypatch.undo()
        worker.broker.start()
        await worker.drained()
    assert runs == [1]
    assert failed == ["ack"]
    assert outcomes(worker) == [(1, "success"), (1, "skip")]
