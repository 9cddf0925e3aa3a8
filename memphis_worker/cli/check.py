"""`memphis-worker check`: whether an app would run, without touching a message."""

from __future__ import annotations

import click

from memphis_worker.bootstrap import select_handlers
from memphis_worker.cli.connect import visit
from memphis_worker.cli.loading import load
from memphis_worker.cli.params import app_flags, broker_flags, connect_options, flag, log_flags
from memphis_worker.client.jetstream import consumer_info
from memphis_worker.errors import Missing
from memphis_worker.handler import Handler
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.binding import (
    bind,
    check_group,
    check_station,
    dead_stations,
    declare_dead_stations,
)
from memphis_worker.runtime.runner import Session

__all__ = ["check"]

EPILOG = """\b
Examples:
  memphis-worker check shop.main:app
  memphis-worker check shop.main:app --connect
  memphis-worker check shop.main:app --connect --create

\b
Exit codes: 0 fine, 2 the app cannot run, 3 the broker is not reachable, or
something there is missing or differs."""


@click.command(epilog=EPILOG)
@click.argument("app")
@flag("--connect", is_flag=True, help="Also sign in, and look up stations and groups.")
@flag("--create", is_flag=True, help="Make the stations and groups that are missing.")
@broker_flags
@app_flags
@log_flags("warning")
def check(app: str, connect: bool, create: bool, url: str | None, timeout: float, app_dir: str, factory: bool) -> None:
    """Import APP and check every handler.

    No message is read, sent or changed.
    """
    target = load(app, app_dir=app_dir, factory=factory)
    handlers = select_handlers(target, WorkerOptions())
    click.echo(f"{app}: {_count(handlers)}, all valid")
    if connect or create:
        visit(connect_options(url, target.url), timeout, lambda session: _look_up(session, handlers, create))
        click.echo("broker: signed in, every station and group is there")


async def _look_up(session: Session, handlers: list[Handler], create: bool) -> None:
    """Raises Missing with all that is missing, or Differs with the first difference."""
    if create:
        await declare_dead_stations(session.plane, handlers)
    missing: list[str] = []
    for station in dead_stations(handlers):
        if await session.plane.station(station) is None:
            missing.append(f"station {station!r} (dead letters)")
    for handler in handlers:
        missing += await _missing_of(session, handler, create)
    if missing:
        found = list(dict.fromkeys(missing))
        raise Missing(f"missing: {', '.join(found)}; `run` makes them at its start, and so does `check --create`")


async def _missing_of(session: Session, handler: Handler, create: bool) -> list[str]:
    station = await session.plane.station(handler.station)
    if station is not None:
        check_station(handler.station, handler.station_options, station)
    try:
        if station is not None:
            check_group(handler, await consumer_info(session.transport, handler.station, handler.group))
            return []
    except Missing:
        pass
    if create:
        await bind(session.plane, session.transport, handler)
        return []
    group = f"group {handler.group!r} of station {handler.station!r}"
    return [group] if station is not None else [f"station {handler.station!r}", group]


def _count(handlers: list[Handler]) -> str:
    return "1 handler" if len(handlers) == 1 else f"{len(handlers)} handlers"
