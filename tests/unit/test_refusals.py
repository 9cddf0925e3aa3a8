"""What cannot work is refused at import, in one line that names the option."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest

from memphis_worker import App, Backoff, Retry, Router, StationOptions
from memphis_worker.errors import InvalidHandler, InvalidOption, PayloadTooLarge, UsageError
from memphis_worker.log import get_logger
from memphis_worker.options import WorkerOptions


async def handle(body: bytes) -> None: ...


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_ack_time_ms": "30s"}, "max_ack_time_ms is '30s'; it must be a whole number"),
        ({"concurrency": "2"}, "concurrency is '2'; it must be a whole number"),
        ({"concurrency": 2.5}, "concurrency is 2.5; it must be a whole number"),
        ({"batch_size": True}, "batch_size is True; it must be a whole number"),
        ({"timeout_s": "2"}, "timeout_s is '2'; it must be a number"),
        ({"timeout_s": math.nan}, "timeout_s is nan; it must be a number"),
        ({"retry": 3}, "retry is 3; it must be a Backoff"),
        ({"station_options": {"replicas": 1}}, "station_options is .*; it must be a StationOptions"),
        ({"name": 5}, "name is 5; it must be text"),
        ({"name": "a\nb"}, "name is 'a\\\\nb'"),
        ({"group": 5}, "group"),
    ],
)
def test_an_option_of_the_wrong_type_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        App().handler(station="orders", **options)(handle)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Backoff(factor="two"), "factor is 'two'; it must be a number"),  # type: ignore[arg-type]
        (lambda: Backoff(base_s=math.nan), "base_s is nan; it must be a number"),
        (lambda: StationOptions(retention_value="7d"), "retention_value is '7d'"),  # type: ignore[arg-type]
        (lambda: StationOptions(dedup_enabled="yes"), "dedup_enabled is 'yes'; it must be true or false"),  # type: ignore[arg-type]
        (lambda: WorkerOptions(shutdown_timeout_s=math.nan), "shutdown_timeout_s is nan"),
        (lambda: Retry(after_s=math.inf), "after_s is inf"),
        (lambda: Retry(after_s=-1), "after_s is -1"),
        (lambda: Retry(after_s=1e12), "after_s is"),
        (lambda: App(5), "name is 5; it must be text"),  # type: ignore[arg-type]
        (lambda: App(url=5), "url is 5; it must be text"),  # type: ignore[arg-type]
        (lambda: App(lifespan=5), "lifespan"),  # type: ignore[arg-type]
        (lambda: App().middleware(5), "middleware"),  # type: ignore[arg-type]
        (lambda: App().include(5), "include"),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_the_wrong_type_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


def test_a_lifespan_that_is_no_context_manager_is_refused() -> None:
    async def lifespan(app: App) -> Any:
        yield

    with pytest.raises(InvalidOption, match="asynccontextmanager"):
        App(lifespan=lifespan)  # type: ignore[arg-type]
    App(lifespan=contextlib.asynccontextmanager(lifespan))


def test_a_handler_without_its_brackets_says_how_to_write_it() -> None:
    with pytest.raises(InvalidHandler, match=r"@app\.handler\(station="):
        App().handler(handle)  # type: ignore[call-overload]


def test_a_handler_of_the_dead_letters_needs_another_place_for_its_own() -> None:
    with pytest.raises(InvalidOption, match="memphis_worker_dead"):
        App().handler(station="memphis_worker_dead")(handle)
    App().handler(station="memphis_worker_dead", dead_letter=False)(handle)


def test_handlers_that_are_each_others_dead_letter_station_are_refused() -> None:
    app = App()
    app.handler(station="a", group="a", name="a", dead_letter="b")(handle)
    with pytest.raises(InvalidHandler, match="round"):
        app.handler(station="b", group="b", name="b", dead_letter="a")(handle)


def test_a_router_that_is_included_twice_says_so() -> None:
    app, router = App(), Router()
    router.handler(station="a")(handle)
    app.include(router)
    with pytest.raises(InvalidHandler, match="included"):
        app.include(router)


def test_a_payload_that_is_too_large_is_bad_input() -> None:
    assert PayloadTooLarge.exit_code == 2


def test_a_library_that_nobody_configured_prints_nothing_below_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    log = get_logger("memphis_worker.test")
    log.debug("x.looked_at")
    log.info("x.opened", broker="b")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
