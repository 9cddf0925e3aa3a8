"""Leases, answers and dead letters: what reaches the broker, in which order."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from memphis_worker import App, Backoff, Message, Reject, Retry, StationOptions
from memphis_worker.options import GroupOptions
from memphis_worker.runtime.binding import DEAD_STATION
from memphis_worker.testing import MemoryBroker, TestWorker, running
from memphis_worker.testing.plane import MemoryPlane

FAST = Backoff(base_s=0.1, jitter=False)


def verbs(worker: TestWorker, station: str = "orders", group: str = "bill") -> list[str]:
    return [each.verb for each in worker.broker.answers(station, group)]


def outcomes(worker: TestWorker) -> list[tuple[int, str]]:
    return [(each.sequence, each.outcome) for each in worker.outcomes]


async def test_a_retry_comes_back_after_its_pause() -> None:
    app, times = App(), []

    @app.handler(station="orders", retry=Backoff(base_s=10, jitter=False), max_msg_deliveries=4)
    async def bill(message: Message) -> None:
        times.append(asyncio.get_running_loop().time())
        if message.deliveries == 1:
            raise ValueError("x")
        if message.deliveries == 2:
            raise Retry(after_s=7)

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
    assert [times[1] - times[0], times[2] - times[1]] == pytest.approx([10, 7])
    assert [each.delay_s for each in worker.broker.answers("orders", "bill", "-NAK")] == pytest.approx([10, 7])


async def test_a_failure_that_is_not_said_because_the_line_is_down_comes_back_after_the_ack_wait() -> None:
    app, runs = App(), []

    @app.handler(station="orders", max_ack_time_ms=5000, retry=FAST)
    async def bill(message: Message) -> None:
        runs.append(message.deliveries)
        if message.deliveries == 1:
            await asyncio.sleep(1)
            raise ValueError("x")

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.1)
        worker.broker.stop()
        await asyncio.sleep(2)
        worker.broker.start()
        await worker.drained()
    assert runs == [1, 2]
    assert verbs(worker).count("-NAK") == 0


async def test_an_undecodable_body_is_dead_on_its_first_delivery_with_its_bytes_untouched() -> None:
    app, runs = App(), []

    @app.handler(station="orders")
    async def bill(body: dict) -> None:
        runs.append(body)

    bad = b"\xff\xfe{not json" + bytes(range(256))
    async with running(app) as worker:
        await worker.produce("orders", bad, headers={"trace-id": "ü 7"})
        await worker.drained()
        (dead,) = worker.dead_letters()
    assert runs == []
    assert (dead.data, dead.reason, dead.deliveries, dead.headers["trace-id"]) == (bad, "undecodable", 1, "ü 7")
    assert (dead.station, dead.group, dead.sequence) == ("orders", "bill", 1)
    assert "not json" not in dead.error
    assert verbs(worker) == ["+TERM"]


async def test_reject_is_a_dead_letter_with_its_reason() -> None:
    app = App()

    @app.handler(station="orders", name="shop.bill")
    async def bill(body: bytes) -> None:
        raise Reject("no such customer")

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        (dead,) = worker.dead_letters()
    assert (dead.reason, dead.error, dead.handler) == ("rejected", "Reject: no such customer", "shop.bill")


async def test_without_dead_letters_a_rejected_message_is_dropped_and_counted(logs: list[Any]) -> None:
    app = App()

    @app.handler(station="orders", dead_letter=False)
    async def bill(body: bytes) -> None:
        raise Reject("x")

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        assert DEAD_STATION not in worker.broker.streams
    assert outcomes(worker) == [(1, "reject")]
    assert verbs(worker) == ["+TERM"]
    assert "message.rejected" in [each["event"] for each in logs]


async def test_dead_letters_may_go_to_a_station_of_their_own() -> None:
    app = App()

    @app.handler(station="orders", dead_letter="Graveyard")
    async def bill(body: bytes) -> None:
        raise Reject("x")

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        assert [each.data for each in worker.dead_letters("graveyard")] == [b"x"]


async def test_a_message_that_kills_its_process_is_dead_unrun() -> None:
    app, runs = App(), []

    @app.handler(station="orders", max_msg_deliveries=2)
    async def bill(body: bytes) -> None:
        runs.append(body)

    broker = MemoryBroker()
    async with running(app, broker=broker):
        pass
    broker.group("orders", "bill").deliveries[1] = 5  # 2 attempts, 3 more on top: five processes died of it
    async with running(app, broker=broker) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        (dead,) = worker.dead_letters()
    assert runs == []
    assert (dead.reason, dead.deliveries) == ("crashed", 6)


# -------------------------------------------------------------------------------- recording


def rejecting(reason: str = "x", **options: Any) -> App:
    app = App()

    @app.handler(station="orders", group="bill", **options)
    async def bill(body: bytes) -> None:
        raise Reject(reason)

    return app


async def test_a_dead_letter_is_confirmed_before_the_message_is_taken_from_the_group() -> None:
    broker = MemoryBroker(latency_s=0.01)
    async with running(rejecting(), broker=broker) as worker:
        await worker.produce("orders", b"x")
        await broker.until(lambda: bool(broker.bodies(DEAD_STATION)))
        assert verbs(worker) == []
        await worker.drained()
        assert verbs(worker) == ["+TERM"]


@pytest.mark.parametrize("fault", ["full", "mute", "gone"])
async def test_what_cannot_be_recorded_is_never_taken_and_comes_back_after_half_a_minute(fault: str) -> None:
    async with running(rejecting(max_ack_time_ms=2000)) as worker:
        broker = worker.broker
        dead = broker.station(DEAD_STATION)
        if fault == "gone":
            del broker.streams[DEAD_STATION]
        else:
            setattr(dead, fault, True)
        await worker.produce("orders", b"x")
        await broker.until(lambda: "-NAK" in verbs(worker))
        assert "+TERM" not in verbs(worker)
        (nak,) = broker.answers("orders", "bill", "-NAK")
        assert 30 <= nak.delay_s <= 60
        assert broker.group("orders", "bill").deliveries == {1: 1}, "it was extended while it was being recorded"
        assert worker.runner._work is not None
        assert worker.runner._work.settlement.unrecorded == 1
        dead.full = dead.mute = False
        broker.streams[DEAD_STATION] = dead
        await worker.drained()
        assert [each.data for each in worker.dead_letters()] == [b"x"]
        assert worker.runner._work.settlement.unrecorded == 0
    assert outcomes(worker) == [(1, "retry"), (1, "dead_letter")]


async def test_a_dead_letter_whose_term_is_lost_is_recorded_once() -> None:
    async with running(rejecting(max_ack_time_ms=1000)) as worker:
        worker.broker.lose_acks()
        await worker.produce("orders", b"x")
        await asyncio.sleep(0.5)
        worker.broker.lose_acks(False)
        await worker.drained()
        assert [each.data for each in worker.dead_letters()] == [b"x"]
    assert outcomes(worker) == [(1, "dead_letter"), (1, "dead_letter")]


async def test_two_groups_bury_the_same_message_once_each() -> None:
    app = rejecting()

    @app.handler(station="orders", group="ship")
    async def ship(body: bytes) -> None:
        raise Reject("y")

    async with running(app) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        assert sorted(each.group for each in worker.dead_letters()) == ["bill", "ship"]


HOSTILE = {
    "Nats-Rollup": "all",
    "nats-expected-last-sequence": "77",
    "X-Nats-Rollup": "all",
    "note": "see Nats-Msg-Id: 1",
    "memphis-worker-reason": "forged",
    "msg-id": "forged",
    "kept": "yes",
}


async def test_no_instruction_to_the_server_is_copied() -> None:
    block = b"NATS/1.0\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in HOSTILE.items()) + b"\r\n"
    async with running(rejecting("Nats-Rollup: sub")) as worker:
        for i in range(2):
            worker.broker.links[0].transport.publish(b"orders.final", b"%d" % i, headers=block)
        await worker.drained()
        dead = worker.dead_letters()
        raw = worker.broker.station(DEAD_STATION).messages[1].headers
    assert [each.data for each in dead] == [b"0", b"1"]
    assert dead[0].headers["kept"] == "yes"
    assert dead[0].reason == "rejected"
    assert "Nats-Rollup" not in dead[0].headers
    # Servers before 2.10 look for a header's name anywhere in the block (nats-server stream.go, getHdrVal).
    assert raw.count(b"Nats-") == 1, "only our own Nats-Msg-Id"
    assert b"nats-expected" not in raw.lower()


async def test_a_body_of_the_largest_size_is_recorded_with_what_headers_fit() -> None:
    broker = MemoryBroker(max_payload=2000)
    async with running(rejecting(), broker=broker) as worker:
        transport = broker.links[0].transport
        for size in (100, 1300, 1500, 1800, 1990, 2000):
            transport.publish(b"orders.final", b"x" * size)
        await worker.drained()
        sizes = [len(each.data) for each in worker.dead_letters()]
    assert sizes == [100, 1300, 1500, 1800, 1990, 2000]


async def test_a_last_delivery_that_the_broker_allows_is_dead_after_its_failure() -> None:
    broker = MemoryBroker()
    plane = MemoryPlane(broker)
    await plane.create_station("orders", StationOptions())
    await plane.create_consumer("orders", "m", "bill", GroupOptions(max_msg_deliveries=2))
    app, runs = App(), []

    @app.handler(station="orders", max_msg_deliveries=2, retry=FAST)
    async def bill(body: bytes) -> None:
        runs.append(body)
        raise ValueError("x")

    async with running(app, broker=broker) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        assert [each.reason for each in worker.dead_letters()] == ["exhausted"]
        assert broker.group("orders", "bill").exhausted == []
    assert len(runs) == 2


async def test_a_broken_instrument_harms_no_message(logs: list[Any]) -> None:
    from memphis_worker.runtime.instrument import Instrument

    class Broken(Instrument):
        def received(self, *args: object) -> None:
            raise RuntimeError("broken")

        finished = failed = dead_lettered = settle_failed = state_changed = received  # type: ignore[assignment]

    async with running(rejecting(), instruments=[Broken()]) as worker:
        await worker.produce("orders", b"x")
        await worker.drained()
        assert [each.data for each in worker.dead_letters()] == [b"x"]
    assert "instrument.failed" in [each["event"] for each in logs]


async def test_a_handler_produces_through_the_same_connection() -> None:
    app = App()

    @app.handler(station="orders")
    async def bill(body: dict) -> None:
        await app.produce("bills", {"of": body["id"]})

    @app.handler(station="bills")
    async def send(body: dict) -> None: ...

    async with running(app) as worker:
        await worker.produce("orders", {"id": 7})
        await worker.drained()
        assert [json.loads(each) for each in worker.broker.bodies("bills")] == [{"of": 7}]


async def test_what_does_not_fit_is_left_out_in_order_the_error_first_and_the_identity_last() -> None:
    broker = MemoryBroker(max_payload=3000)
    headers = b"NATS/1.0\r\ntrace: " + b"t" * 200 + b"\r\n\r\n"
    kept = []
    async with running(rejecting("r" * 400), broker=broker) as worker:
        for size in (100, 2100, 2450, 2770):
            broker.links[0].transport.publish(b"orders.final", b"x" * size, headers=headers)
        await worker.drained()
        for each in worker.dead_letters():
            names = ("memphis-worker-error", "trace", "memphis-worker-reason", "Nats-Msg-Id")
            kept.append("".join("ETRI"[at] for at, name in enumerate(names) if name in each.headers))
    assert kept == ["ETRI", "TRI", "RI", "I"]


async def test_a_message_that_the_operator_sent_again_and_that_fails_is_a_dead_letter_at_once() -> None:
    """It came without a reply and would never come again. Two are two dead letters, though none has a number."""
    app = App()

    @app.handler(station="orders", max_msg_deliveries=5)
    async def bill(body: bytes) -> None:
        raise ValueError("still broken")

    async with running(app) as worker:
        worker.broker.resend("orders", "bill", b"one")
        worker.broker.resend("orders", "bill", b"two")
        await asyncio.sleep(1)
        assert [(each.data, each.headers["memphis-worker-reason"]) for each in worker.dead_letters()] == [
            (b"one", "exhausted"),
            (b"two", "exhausted"),
        ]
    assert outcomes(worker) == [(0, "dead_letter"), (0, "dead_letter")]


async def test_a_resent_message_that_waits_at_the_stop_still_runs() -> None:
    app, ran = App(), []

    @app.handler(station="orders", concurrency=1)
    async def bill(body: bytes) -> None:
        await asyncio.sleep(1)
        ran.append(body)

    async with running(app) as worker:
        for body in (b"one", b"two", b"three"):
            worker.broker.resend("orders", "bill", body)
        await asyncio.sleep(0.1)
        assert await worker.stop() == 0
    assert ran == [b"one", b"two", b"three"]
