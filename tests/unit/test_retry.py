from __future__ import annotations

import pytest

from memphis_worker.errors import InvalidOption
from memphis_worker.retry import Backoff, Reject, Retry


def test_pauses_double_up_to_the_cap() -> None:
    backoff = Backoff(jitter=False)
    assert [backoff.delay_s(attempt) for attempt in range(1, 11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 2.0), (0.5, 3.0), (1.0, 4.0)])
def test_jitter_takes_away_up_to_half(chance: float, delay: float) -> None:
    assert Backoff(base_s=4).delay_s(1, chance) == delay


@pytest.mark.parametrize("attempt", [-1, 0, 1])
def test_the_first_pause_is_the_shortest(attempt: int) -> None:
    assert Backoff(base_s=3, jitter=False).delay_s(attempt) == 3


def test_a_huge_attempt_is_no_overflow() -> None:
    assert Backoff(factor=1e9, jitter=False).delay_s(10**9) == 300


@pytest.mark.parametrize(
    ("options", "words"),
    [({"base_s": -1}, "base_s is -1"), ({"factor": 0.5}, "factor is 0.5"), ({"base_s": 10, "max_s": 5}, "max_s is 5")],
)
def test_a_backoff_that_cannot_hold_is_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Backoff(**options)  # type: ignore[arg-type]


def test_retry_and_reject_keep_their_reason() -> None:
    assert (str(Retry("later", after_s=5)), Retry("later", after_s=5).after_s) == ("later", 5)
    assert (str(Reject("never")), Reject("never").reason) == ("never", "never")
    assert Retry().after_s is None


def test_a_pause_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidOption, match="after_s is '5'"):
        Retry(after_s="5")  # type: ignore[arg-type]
