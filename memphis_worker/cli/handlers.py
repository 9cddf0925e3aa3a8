"""`memphis-worker handlers`: the handlers of an app, and their options as they take effect."""

from __future__ import annotations

from dataclasses import asdict

import click

from memphis_worker.cli.loading import load
from memphis_worker.cli.params import app_flags, as_json, log_flags
from memphis_worker.cli.table import show
from memphis_worker.handler import Handler
from memphis_worker.options import WorkerOptions

__all__ = ["handlers"]

COLUMNS = (
    "handler",
    "station",
    "group",
    "kind",
    "concurrency",
    "max_ack_time_ms",
    "max_msg_deliveries",
    "timeout_s",
    "dead_letter",
)

EPILOG = """\b
Examples:
  memphis-worker handlers shop.main:app
  memphis-worker handlers shop.main:app --json"""


@click.command(epilog=EPILOG)
@click.argument("app")
@as_json
@app_flags
@log_flags("warning")
def handlers(app: str, as_json: bool, app_dir: str, factory: bool) -> None:
    """List the handlers of APP and their options."""
    target = load(app, app_dir=app_dir, factory=factory)
    rows = [_row(handler) for handler in target.registry]
    show(rows, as_json=as_json, columns=COLUMNS, empty=f"app {target.name!r} has no handler")


def _row(handler: Handler) -> dict[str, object]:
    """`concurrency` and `batch_size` with what they default to in a process of default size."""
    process = WorkerOptions()
    options = asdict(handler.options)
    limit = handler.options.concurrency or process.concurrency
    options["concurrency"] = min(limit, process.concurrency if handler.is_async else process.thread_limit)
    return {
        "handler": handler.name,
        "station": handler.station,
        "group": handler.group,
        "kind": "async" if handler.is_async else "thread",
        **options,
        "retry": asdict(handler.retry),
        "station_options": asdict(handler.station_options) if handler.station_options is not None else None,
    }
