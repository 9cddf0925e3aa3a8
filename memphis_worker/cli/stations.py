"""`memphis-worker stations`: list, create, show and destroy stations."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from memphis_worker.cli.connect import visit
from memphis_worker.cli.params import as_json, broker_flags, connect_options, flag, log_flags, station_flags
from memphis_worker.cli.table import show as show_rows
from memphis_worker.client.control.plane import StationInfo
from memphis_worker.client.jetstream import stream_info, streams
from memphis_worker.client.names import station_name
from memphis_worker.errors import Missing
from memphis_worker.options import StationOptions
from memphis_worker.runtime.binding import declare_station
from memphis_worker.runtime.runner import Session

__all__ = ["stations"]

COLUMNS = ("name", "messages", "bytes", "groups", "retention_type", "retention_value", "storage_type", "replicas")

EPILOG = """\b
Examples:
  memphis-worker stations list
  memphis-worker stations create orders --retention-value 86400
  memphis-worker stations show orders --json
  memphis-worker stations destroy orders"""


@click.group(epilog=EPILOG)
def stations() -> None:
    """List, create, show and destroy stations.

    A station is where messages are kept: producers send to it, groups of consumers read from it.
    """


@stations.command("list")
@as_json
@broker_flags
@log_flags("warning")
def list_(as_json: bool, url: str | None, timeout: float) -> None:
    """List all stations."""

    async def read(session: Session) -> list[dict[str, object]]:
        counts = {each.name: each for each in await streams(session.transport, timeout_s=timeout)}
        return [_row(each, counts.get(each.name)) for each in await session.plane.stations()]

    rows = visit(connect_options(url), timeout, read)
    show_rows(rows, as_json=as_json, columns=COLUMNS, empty="there is no station")


@stations.command()
@click.argument("name")
@station_flags
@broker_flags
@log_flags("warning")
def create(name: str, options: StationOptions, url: str | None, timeout: float) -> None:
    """Make the station NAME.

    One that is there already is left as it is; if it differs from what is asked for, that is an error.
    """
    station = station_name(name)

    async def make(session: Session) -> bool:
        there = await session.plane.station(station) is not None
        await declare_station(session.plane, station, options)
        return there

    there = visit(connect_options(url), timeout, make)
    click.echo(f"station {station} {'was there already' if there else 'is made'}")


@stations.command()
@click.argument("name")
@as_json
@broker_flags
@log_flags("warning")
def show(name: str, as_json: bool, url: str | None, timeout: float) -> None:
    """Show the station NAME."""
    station = station_name(name)

    async def read(session: Session) -> dict[str, object]:
        found = await session.plane.station(station)
        if found is None:
            raise Missing(f"station {station!r} does not exist")
        return _row(found, await stream_info(session.transport, station, timeout_s=timeout))

    row = visit(connect_options(url), timeout, read)
    if as_json:
        show_rows([row], as_json=True, columns=(), empty="")
        return
    for key, value in row.items():
        click.echo(f"{key:<17}{'-' if value is None else value}")


@stations.command()
@click.argument("name")
@flag("--yes", "-y", is_flag=True, help="Do not ask.")
@broker_flags
@log_flags("warning")
def destroy(name: str, yes: bool, url: str | None, timeout: float) -> None:
    """Destroy the station NAME with its messages, producers and groups.

    On a terminal it asks first.
    """
    station = station_name(name)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Destroy station {station} with all its messages?", abort=True, err=True)

    async def end(session: Session) -> None:
        try:
            await session.plane.destroy_station(station)
        except Missing as exc:
            raise Missing(f"station {station!r} does not exist") from exc

    visit(connect_options(url), timeout, end)
    click.echo(f"station {station} is destroyed")


def _row(station: StationInfo, counts: object) -> dict[str, object]:
    """What the control plane says of it, and what its stream holds."""
    held = {key: getattr(counts, of, None) for key, of in _COUNTS.items()}
    return {**asdict(station), **held}


_COUNTS = {"messages": "messages", "bytes": "bytes", "groups": "consumers"}
