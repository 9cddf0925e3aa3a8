"""The documents agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memphis_worker.cli import cli
from memphis_worker.observability.metrics import PREFIX, SPEC
from memphis_worker.options import HandlerOptions

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def metrics_table() -> str:
    rows = ["| metric | type | labels | |", "|---|---|---|---|"]
    for family in SPEC:
        name = PREFIX + family.name + ("_total" if family.kind == "counter" else "")
        rows.append(f"| `{name}` | {family.kind} | {', '.join(family.labels)} | {family.help} |")
    return "\n".join(rows)


def test_the_metrics_table_is_that_of_the_code() -> None:
    assert metrics_table() in (ROOT / "docs/operations.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    for named in re.findall(r"`((?:tests|docs|benchmarks|examples)/[\w/.-]+\.\w+)`", page.read_text()):
        assert (ROOT / named).exists(), named


def test_every_command_is_described() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    for name in cli.commands:
        assert f"`{name}" in text, name


def test_every_option_of_a_handler_is_described() -> None:
    text = (ROOT / "docs/handlers.md").read_text()
    for name in (*HandlerOptions.__dataclass_fields__, "station", "group", "name", "retry", "station_options"):
        assert f"`{name}`" in text, name
