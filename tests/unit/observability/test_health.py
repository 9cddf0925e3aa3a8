from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from memphis_worker import App
from memphis_worker.observability import health
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.status import Status

NOW = 1000.0
WORKING = Status(app="shop", state="running", imported=True, connected=True, heartbeat=NOW - 0.1, groups=2, bound=2)


def ready(**changes: Any) -> tuple[int, dict[str, Any]]:
    return health.ready(replace(WORKING, **changes), NOW, stall_timeout_s=30, wall=datetime(2026, 1, 1, tzinfo=UTC))


def failing(answer: tuple[int, dict[str, Any]]) -> list[str]:
    code, body = answer
    assert (code == 200) == (body["status"] == "ok")
    return [name for name, check in body["checks"].items() if not check["ok"]]


def test_an_idle_worker_is_ready() -> None:
    assert failing(ready()) == []
    assert ready()[1]["checks"]["consumers"] == {"ok": True, "bound": 2, "wanted": 2}


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"state": "starting"}, "state"),
        ({"state": "draining"}, "state"),
        ({"state": "stopped"}, "state"),
        ({"heartbeat": NOW - 30}, "event_loop"),
        ({"connected": False, "disconnected_since": NOW - 10.1}, "broker"),
        ({"bound": 1}, "consumers"),
        ({"groups": 0, "bound": 0}, "consumers"),
        ({"silent": ("orders/billing",)}, "consumers"),
        ({"unrecorded": 3}, "dead_letters"),
    ],
)
def test_what_makes_it_not_ready(changes: dict[str, Any], check: str) -> None:
    code, _ = answer = ready(**changes)
    assert code == 503
    assert failing(answer) == [check]


@pytest.mark.parametrize(
    "changes", [{"connected": False, "disconnected_since": NOW - 9.9}, {"unrecorded": 2}, {"heartbeat": NOW - 29}]
)
def test_what_leaves_it_ready(changes: dict[str, Any]) -> None:
    assert failing(ready(**changes)) == []


def test_a_lost_broker_says_since_when() -> None:
    _, body = ready(connected=False, disconnected_since=NOW - 60)
    assert body["checks"]["broker"] == {"ok": False, "since": "2025-12-31T23:59:00.000+00:00"}


@pytest.mark.parametrize(
    "changes",
    [{"connected": False, "disconnected_since": 0.0}, {"state": "draining"}, {"bound": 0}, {"unrecorded": 9}],
)
def test_only_a_blocked_loop_is_a_reason_to_restart(changes: dict[str, Any]) -> None:
    assert health.live(replace(WORKING, **changes), NOW, stall_timeout_s=30)[0] == 200
    assert health.live(replace(WORKING, **changes, heartbeat=NOW - 31), NOW, stall_timeout_s=30)[0] == 503


def test_started_does_not_depend_on_the_broker() -> None:
    assert health.started(Status(imported=True))[0] == 200
    assert health.started(Status())[0] == 503


def test_info_tells_what_runs() -> None:
    app = App("shop")

    @app.handler(station="orders", group="billing", name="bill")
    async def bill(body: bytes) -> None: ...

    found = health.info(
        WORKING, version="1.2", handlers=list(app.registry), options=WorkerOptions(), broker="memphis://root@host"
    )
    assert found["handlers"] == [{"handler": "bill", "station": "orders", "group": "billing"}]
    assert found["settings"]["concurrency"] == 100
    assert json.loads(json.dumps(found))["broker"] == "memphis://root@host"
