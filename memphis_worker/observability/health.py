"""Health: what the process says of itself, as a status code and a body. Pure: a status and a clock in, values out."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from memphis_worker.handler import Handler
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.status import Status

__all__ = ["READY_GRACE_S", "Answer", "info", "live", "ready", "started"]

#: How long a lost connection leaves the worker ready.
READY_GRACE_S = 10.0
#: Dead letters in a row that could not be recorded, until the worker is not ready.
UNRECORDED_MAX = 3

#: Status code and body.
Answer = tuple[int, dict[str, object]]


def live(status: Status, now: float, *, stall_timeout_s: float) -> Answer:
    """`/healthz`: whether the event loop still turns. Nothing else is a reason to restart the process."""
    return _answer(status, {"event_loop": _event_loop(status, now, stall_timeout_s)})


def ready(status: Status, now: float, *, stall_timeout_s: float, wall: datetime | None = None) -> Answer:
    """`/readyz`: whether it can work: running, connected, every group bound and answering. An idle worker is ready.

    `wall`: the time of day at `now`, for `since`; default the present.
    """
    down_s = 0.0 if status.connected else max(0.0, now - status.disconnected_since)
    broker: dict[str, object] = {"ok": status.connected or down_s <= READY_GRACE_S}
    if not status.connected:
        broker["since"] = ((wall or datetime.now(UTC)) - timedelta(seconds=down_s)).isoformat(timespec="milliseconds")
    consumers: dict[str, object] = {
        "ok": status.bound >= status.groups > 0 and not status.silent,
        "bound": status.bound,
        "wanted": status.groups,
    }
    if status.silent:
        consumers["silent"] = list(status.silent)
    checks: dict[str, dict[str, object]] = {
        "state": {"ok": status.state == "running"},
        "event_loop": _event_loop(status, now, stall_timeout_s),
        "broker": broker,
        "consumers": consumers,
        "dead_letters": {"ok": status.unrecorded < UNRECORDED_MAX, "unrecorded": status.unrecorded},
    }
    return _answer(status, checks)


def started(status: Status) -> Answer:
    """`/startupz`: whether the app is imported and its lifespan entered. The broker has no say in it."""
    return _answer(status, {"app": {"ok": status.imported}})


def info(
    status: Status, *, version: str, handlers: Sequence[Handler], options: WorkerOptions, broker: str
) -> dict[str, object]:
    """`/info`: what runs here. `broker`: its URL without secrets."""
    return {
        "app": status.app,
        "version": version,
        "python": platform.python_version(),
        "state": status.state,
        "broker": broker,
        "handlers": [{"handler": each.name, "station": each.station, "group": each.group} for each in handlers],
        "settings": asdict(options),
    }


def _event_loop(status: Status, now: float, stall_timeout_s: float) -> dict[str, object]:
    age = max(0.0, now - status.heartbeat)
    return {"ok": age < stall_timeout_s, "age_seconds": round(age, 3)}


def _answer(status: Status, checks: dict[str, dict[str, object]]) -> Answer:
    fine = all(check["ok"] for check in checks.values())
    body: dict[str, object] = {"status": "ok" if fine else "unavailable", "state": status.state, "checks": checks}
    return 200 if fine else 503, body
