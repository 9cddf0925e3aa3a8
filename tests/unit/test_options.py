from __future__ import annotations

from typing import Any

import pytest

from memphis_worker.errors import InvalidOption
from memphis_worker.options import GroupOptions, HandlerOptions, StationOptions, WorkerOptions
from memphis_worker.runtime.binding import difference


def test_the_defaults_hold() -> None:
    assert (WorkerOptions().concurrency, WorkerOptions().thread_limit) == (100, 40)
    assert (HandlerOptions().max_ack_time_ms, HandlerOptions().max_msg_deliveries) == (30_000, 10)
    assert StationOptions().storage_type == "file"


@pytest.mark.parametrize(("options", "limit"), [({"threads": 5}, 5), ({"concurrency": 3}, 3), ({"threads": 200}, 100)])
def test_there_are_never_more_threads_than_slots(options: dict[str, int], limit: int) -> None:
    assert WorkerOptions(**options).thread_limit == limit  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (WorkerOptions, {"concurrency": 0}, "concurrency is 0; it must be 1 or more"),
        (WorkerOptions, {"threads": 0}, "threads is 0"),
        (WorkerOptions, {"shutdown_timeout_s": -1}, "shutdown_timeout_s is -1"),
        (WorkerOptions, {"stall_timeout_s": 0}, "stall_timeout_s is 0"),
        (WorkerOptions, {"window_bytes": 1}, "window_bytes is 1"),
        (GroupOptions, {"max_ack_time_ms": 0}, "max_ack_time_ms is 0"),
        (GroupOptions, {"max_msg_deliveries": 0}, "max_msg_deliveries is 0"),
        (StationOptions, {"retention_type": "days"}, "retention_type is 'days'; it must be one of message_age_sec"),
        (StationOptions, {"storage_type": "tape"}, "storage_type is 'tape'"),
        (StationOptions, {"retention_value": 0}, "retention_value is 0"),
        (StationOptions, {"replicas": 6}, "replicas is 6; it must be from 1 to 5"),
        (StationOptions, {"dedup_window_ms": -1}, "dedup_window_ms is -1"),
        (
            StationOptions,
            {"dedup_enabled": True, "dedup_window_ms": 2000, "retention_value": 1},
            "dedup_window_ms is 2000, longer than the retention of 1 s",
        ),
    ],
)
def test_an_option_out_of_range_is_refused(kind: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        kind(**options)
    assert words in str(caught.value)


def test_only_what_is_written_out_is_compared_with_a_station_that_exists() -> None:
    from memphis_worker.client.control.plane import StationInfo

    existing = StationInfo(name="orders", replicas=3, storage_type="memory", retention_value=None)
    assert difference(StationOptions(), existing) == ""
    assert difference(StationOptions(replicas=3), existing) == ""
    assert difference(StationOptions(retention_value=5), existing) == "", "the broker does not say"
    assert difference(StationOptions(replicas=2), existing) == "replicas is 3, asked for 2"
