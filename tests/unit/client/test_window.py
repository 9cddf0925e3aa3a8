"""The credit of a pull stream, without a stream: what may be asked for, and what a request leaves behind."""

from __future__ import annotations

import pytest

from memphis_worker.client.budget import ByteBudget
from memphis_worker.client.window import LIVE_MAX, PREFETCH_MAX, Request, Window


def window(concurrency: int = 8, **options: int) -> Window:
    return Window(concurrency, 30.0, **options)


def asked(*batches: int, concurrency: int = 100) -> Window:
    """Requests 1, 2, 3, ... of these sizes; the first dies at 1 s, the second at 2 s, and so on."""
    each = window(concurrency)
    for number, batch in enumerate(batches, start=1):
        each.asked(number, Request(batch, float(number)))
    return each


# held and out of a window of 8 -> what is wanted
@pytest.mark.parametrize(
    ("held", "out", "wanted"),
    [
        (0, 0, 8),
        (7, 0, 1),
        (8, 0, 0),
        (9, 0, 0),
        (0, 5, 0),  # more than half is on its way
        (0, 4, 4),
        (2, 4, 2),
        (3, 4, 0),  # less than a quarter is free
        (5, 1, 2),
    ],
)
def test_a_pull_goes_out_when_half_is_asked_for_and_a_quarter_is_free(held: int, out: int, wanted: int) -> None:
    each = window()
    each.held, each.out = held, out
    assert each.wanted() == wanted


def test_no_more_than_a_batch_is_wanted() -> None:
    assert window(batch_max=3).wanted() == 3


def test_one_message_is_wanted_when_the_next_is_large() -> None:
    each = window(batch_max=3)
    each.one_message = True
    assert each.wanted() == 1


def test_the_number_of_requests_is_bounded() -> None:
    each = asked(*[1] * (LIVE_MAX - 1))
    assert each.wanted() == 100 - (LIVE_MAX - 1)
    each.asked(LIVE_MAX, Request(1, 9.0))
    assert each.wanted() == 0


def test_a_server_that_takes_one_request_gets_no_second() -> None:
    each = asked(1)
    each.one_request = True
    assert each.wanted() == 0
    each.ended(1, 1)
    assert each.wanted() == 100


def test_a_request_that_ends_gives_back_what_it_did_not_bring() -> None:
    each = asked(10, 20)
    each.ended(1, 4)
    assert (each.out, list(each.live)) == (26, [2])


def test_the_last_request_that_ends_leaves_nothing_whatever_it_gives_back() -> None:
    each = asked(10)
    each.ended(1, 4)
    assert (each.out, each.live) == (0, {})


def test_a_request_of_before_changes_nothing() -> None:
    each = asked(10)
    each.ended(7, 4)
    assert (each.out, list(each.live)) == (10, [1])


def test_a_request_without_a_word_is_dead_at_its_deadline() -> None:
    each = asked(10, 20)
    each.expire(1.0)
    assert list(each.live) == [2]
    each.expire(2.0)
    assert (each.out, each.live) == (0, {})


def test_an_expired_request_leaves_no_more_than_the_others_may_bring() -> None:
    each = asked(10, 20, 30)
    each.out = 55  # 5 came, of whichever
    each.expire(1.0)
    assert each.out == 50
    each.expire(2.0)
    assert each.out == 30


def test_what_came_may_be_of_the_living_and_is_not_counted_twice() -> None:
    each = asked(10, 30)
    each.out = 12
    each.expire(1.0)
    assert each.out == 12


def test_what_was_asked_for_after_a_dead_request_lives() -> None:
    each = asked(10, 20, 30)
    each.forget_until(2)
    assert (each.out, list(each.live)) == (30, [3])


def test_what_a_living_request_has_brought_is_not_expected_again() -> None:
    each = asked(10, 30)
    each.out = 12
    each.forget_until(1)
    assert each.out == 12


def test_what_is_finished_in_20_ms_is_asked_for_ahead() -> None:
    each = window(2)
    each.settled = 1000
    each.measure(0.019)
    assert (each.size, each.settled) == (2, 1000)
    each.measure(0.1)
    assert (each.size, each.settled, each.since) == (2 + 200, 0, 0.1)


def test_no_more_than_a_thousand_is_asked_for_ahead() -> None:
    each = window(2)
    each.settled = 1_000_000
    each.measure(1.0)
    assert each.size == 2 + PREFETCH_MAX


def test_a_slow_handler_has_nothing_asked_for_ahead() -> None:
    each = window(2)
    each.settled = 3
    each.measure(10.0)
    assert each.size == 2


def test_bytes_above_half_of_the_budget_close_it_and_those_that_wait_are_called_once() -> None:
    budget, called = ByteBudget(100, 0), []
    budget.held = 51
    assert not budget.open
    budget.waiting.add(lambda: called.append(1))
    budget.held = 50
    assert budget.open
    budget.wake()
    budget.wake()
    assert called == [1]


def test_a_share_has_room_for_two_messages_of_any_size() -> None:
    assert ByteBudget(1000, 4).share(10) == 250
    assert ByteBudget(1000, 4).share(1000) == 2000
