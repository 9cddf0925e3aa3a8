"""`memphis-worker lag`: how far each group is behind."""

from __future__ import annotations

from dataclasses import asdict

import click

from memphis_worker.cli.connect import visit
from memphis_worker.cli.loading import load
from memphis_worker.cli.params import app_flags, as_json, broker_flags, connect_options, log_flags
from memphis_worker.cli.table import show
from memphis_worker.client.jetstream import GroupLag, consumers, group_lag
from memphis_worker.errors import Missing
from memphis_worker.runtime.runner import Session

__all__ = ["lag"]

COLUMNS = ("station", "group", "waiting", "in_flight", "redelivered", "oldest_age_s")
Groups = list[tuple[str, str]]

EPILOG = """\b
Examples:
  memphis-worker lag
  memphis-worker lag shop.main:app --json

\b
waiting: never delivered. in_flight: delivered and not finished, also what waits
for its next attempt. oldest_age_s: age of the oldest of both, in seconds."""


@click.command(epilog=EPILOG)
@click.argument("app", required=False)
@as_json
@broker_flags
@app_flags
@log_flags("warning")
def lag(app: str | None, as_json: bool, url: str | None, timeout: float, app_dir: str, factory: bool) -> None:
    """Show what waits for each group: of APP, or of all stations."""
    target = load(app, app_dir=app_dir, factory=factory) if app is not None else None
    wanted = [(each.station, each.group) for each in target.registry] if target is not None else None
    options = connect_options(url, target.url if target is not None else None)
    found, missing = visit(options, timeout, lambda session: _read(session, wanted, timeout))
    show([_row(each) for each in found], as_json=as_json, columns=COLUMNS, empty="no station has a group yet")
    if missing:
        names = ", ".join(f"{station}/{group}" for station, group in missing)
        raise Missing(f"not there yet: {names} (station/group); `run` makes them at its start")


async def _read(session: Session, wanted: Groups | None, timeout_s: float) -> tuple[list[GroupLag], Groups]:
    """Of the wanted groups (`None`: of all) the lag of those that are there, and the others."""
    found: list[GroupLag] = []
    missing: Groups = []
    for station, group in await _all(session, timeout_s) if wanted is None else wanted:
        try:
            found.append(await group_lag(session.transport, station, group, timeout_s=timeout_s))
        except Missing:
            if wanted is not None:
                missing.append((station, group))
    return found, missing


async def _all(session: Session, timeout_s: float) -> Groups:
    found: Groups = []
    for station in await session.plane.stations():
        try:
            groups = await consumers(session.transport, station.name, timeout_s=timeout_s)
        except Missing:  # destroyed since it was listed
            continue
        found += [(station.name, group.name) for group in groups]
    return found


def _row(each: GroupLag) -> dict[str, object]:
    row = asdict(each)
    if each.oldest_age_s is not None:
        row["oldest_age_s"] = round(each.oldest_age_s, 3)
    return row
