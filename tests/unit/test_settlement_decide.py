"""One row for each case of what becomes of a delivery."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from memphis_worker import Backoff, Reject, Retry, Router
from memphis_worker.errors import DecodeError
from memphis_worker.handler import Handler, Undecodable
from memphis_worker.runtime.settlement import (
    DeadLetter,
    Decision,
    Discard,
    Lost,
    Redeliver,
    Release,
    crashed,
    decide,
    describe,
)

CUT = "cut off by the shutdown on the last delivery that the broker allows"


def handler(**options: Any) -> Handler:
    router = Router()

    @router.handler(station="orders", retry=Backoff(base_s=10, max_s=100), max_msg_deliveries=5, **options)
    async def bill(body: bytes) -> None: ...

    return router.handlers[0]


FAIL = ValueError("x")
STOPPED = asyncio.CancelledError()


@pytest.mark.parametrize(
    ("deliveries", "max_deliver", "error", "cancelled", "expected"),
    [
        # a failure with attempts left: the pause grows with the delivery
        (1, -1, FAIL, None, Redeliver(10)),
        (2, -1, FAIL, None, Redeliver(20)),
        (4, 9, FAIL, None, Redeliver(80)),
        # a CancelledError that nobody asked for, a SystemExit: failures
        (1, -1, STOPPED, None, Redeliver(10)),
        (1, -1, SystemExit(1), None, Redeliver(10)),
        # a DecodeError that the user's own code raised is a failure, not an undecodable body
        (1, -1, DecodeError("mine"), None, Redeliver(10)),
        # the handler says when
        (1, -1, Retry(after_s=3), None, Redeliver(3)),
        (1, -1, Retry(after_s=0), None, Redeliver(0)),
        (2, -1, Retry("as the policy says"), None, Redeliver(20)),
        # attempts used up
        (5, -1, FAIL, None, DeadLetter("exhausted", "ValueError: x")),
        (6, 9, FAIL, None, DeadLetter("exhausted", "ValueError: x")),
        (5, -1, Retry("again", after_s=3), None, DeadLetter("exhausted", "Retry: again")),
        # the broker allows fewer
        (3, 3, FAIL, None, DeadLetter("exhausted", "ValueError: x")),
        (2, 3, FAIL, None, Redeliver(20)),
        (1, 0, FAIL, None, Redeliver(10)),
        # never again, at the first delivery already
        (1, -1, Reject("no"), None, DeadLetter("rejected", "Reject: no")),
        (
            1,
            -1,
            Undecodable("no JSON"),
            None,
            DeadLetter("undecodable", "Undecodable: no JSON"),
        ),
        # a timeout
        (1, -1, TimeoutError("long"), "timeout", Redeliver(10)),
        (5, -1, TimeoutError("long"), "timeout", DeadLetter("timeout", "TimeoutError: long")),
        (3, 3, TimeoutError("long"), "timeout", DeadLetter("timeout", "TimeoutError: long")),
        # the shutdown: costs no attempt, but on the last delivery there is no other
        (1, -1, None, None, Release(ran=False)),
        (9, 9, None, None, Release(ran=False)),
        (1, 9, STOPPED, "stop", Release(ran=True)),
        (5, 9, STOPPED, "stop", Release(ran=True)),
        (1, 9, FAIL, "stop", Release(ran=True)),
        (9, 9, STOPPED, "stop", DeadLetter("exhausted", CUT)),
        # the lease is gone: nothing may be said
        (1, -1, STOPPED, "lease", Lost()),
        (9, 9, FAIL, "lease", Lost()),
        (1, -1, Reject("no"), "lease", Lost()),
    ],
)
def test_decide(
    deliveries: int,
    max_deliver: int,
    error: BaseException | None,
    cancelled: Literal["stop", "timeout", "lease"] | None,
    expected: Decision,
) -> None:
    assert decide(handler(), deliveries, max_deliver, error, cancelled=cancelled) == expected


@pytest.mark.parametrize(
    ("deliveries", "error", "cancelled", "reason"),
    [
        (5, FAIL, None, "exhausted"),
        (1, Reject("no"), None, "rejected"),
        (1, Undecodable("x"), None, "undecodable"),
        (5, TimeoutError(), "timeout", "timeout"),
    ],
)
def test_without_dead_letters_it_is_discarded(
    deliveries: int, error: BaseException, cancelled: Literal["timeout"] | None, reason: str
) -> None:
    decision = decide(handler(dead_letter=False), deliveries, -1, error, cancelled=cancelled)
    assert decision == Discard(reason, describe(error))  # type: ignore[arg-type]


@pytest.mark.parametrize(("chance", "delay_s"), [(0.0, 5.0), (0.5, 7.5), (1.0, 10.0)])
def test_the_pause_has_its_jitter(chance: float, delay_s: float) -> None:
    assert decide(handler(), 1, -1, FAIL, chance=chance) == Redeliver(delay_s)


def test_what_came_too_often_without_failing_is_crashed() -> None:
    decision = crashed(handler())
    assert isinstance(decision, DeadLetter)
    assert decision.reason == "crashed"
    assert isinstance(crashed(handler(dead_letter=False)), Discard)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("x"), "ValueError: x"),
        (ValueError(), "ValueError"),
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError("a\r\nNats-Rollup: all\x00\x1b[31m\ud800"), "ValueError: a  Nats-Rollup: all  [31m "),
        (ValueError("é✓"), "ValueError: é✓"),
        (Silent(), "Silent: (its text cannot be read)"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
def test_an_exception_becomes_one_printable_line(error: BaseException, text: str) -> None:
    assert describe(error) == text


@pytest.mark.parametrize("character", ["x", "é", "✓"])
def test_a_long_text_is_cut_at_512_bytes_and_at_a_whole_character(character: str) -> None:
    text = describe(ValueError(character * 10_000_000))
    assert 509 <= len(text.encode()) <= 512
    assert set(text.removeprefix("ValueError: ")) == {character}
