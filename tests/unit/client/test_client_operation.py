from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from memphis_worker.client.operation import Operations
from memphis_worker.errors import BrokerRefused, ConnectionClosed


async def test_operations_run_one_at_a_time_in_the_order_of_the_calls() -> None:
    operations, seen = Operations(), []
    first_may_end = asyncio.Event()

    async def first() -> None:
        seen.append("first begins")
        await first_may_end.wait()
        seen.append("first ends")

    async def second() -> None:
        seen.append("second")

    operations.start("first", first)
    last = operations.start("second", second)
    first_may_end.set()
    await last
    assert seen == ["first begins", "first ends", "second"]


async def test_an_error_is_raised_each_time_it_is_awaited() -> None:
    async def fail() -> None:
        raise BrokerRefused("no")

    operation = Operations().start("fail", fail)
    for _ in range(2):
        with pytest.raises(BrokerRefused, match="no"):
            await operation


async def test_a_failure_does_not_stop_the_next_one() -> None:
    async def fail() -> None:
        raise BrokerRefused("no")

    done = asyncio.Event()

    async def succeed() -> None:
        done.set()

    operations = Operations()
    operations.start("fail", fail)
    await operations.start("succeed", succeed)
    assert done.is_set()


async def test_an_error_that_nobody_asked_for_is_logged_when_it_finishes() -> None:
    async def fail() -> None:
        raise BrokerRefused("no")

    operations = Operations()
    operations.start("create station 'x'", fail)
    heard = operations.start("create station 'y'", fail)
    with pytest.raises(BrokerRefused):
        await heard
    with capture_logs() as logs:
        await operations.finish(1)
    failed = [entry["operation"] for entry in logs if entry["event"] == "operation.failed"]
    assert failed == ["create station 'x'"]


async def test_what_does_not_end_is_cancelled_and_says_so() -> None:
    operations = Operations()
    operation = operations.start("hang", asyncio.Event().wait)
    waiting = asyncio.create_task(_outcome(operation))
    await operations.finish(0.01)
    with pytest.raises(ConnectionClosed, match="not finished"):
        await waiting


async def test_cancelling_who_waits_does_not_cancel_the_work() -> None:
    may_end = asyncio.Event()
    operation = Operations().start("work", may_end.wait)
    waiting = asyncio.create_task(_outcome(operation))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    await operation


async def _outcome(operation: object) -> None:
    await operation  # type: ignore[misc]
