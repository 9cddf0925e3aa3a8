"""What a command prints: a table for people, one JSON list for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click

__all__ = ["show"]


def show(rows: Sequence[Mapping[str, object]], *, as_json: bool, columns: Sequence[str], empty: str) -> None:
    """Prints the rows. `columns`: those of the table; JSON has all keys. `empty`: instead of a table without rows."""
    if as_json:
        click.echo(json.dumps([dict(row) for row in rows], default=str))
    elif not rows:
        click.echo(empty, err=True)
    else:
        for line in _lines(rows, columns):
            click.echo(line)


def _lines(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> list[str]:
    table = [[column.upper() for column in columns], *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    numeric = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns]
    return ["  ".join(_padded(*cell) for cell in zip(line, widths, numeric, strict=True)).rstrip() for line in table]


def _padded(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if value < 100 else f"{value:.0f}"
    return str(value)
