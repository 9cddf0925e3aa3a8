"""The test that docs/embedded.md shows, and the app of the README, work as they are written."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def block(monkeypatch: pytest.MonkeyPatch, page: str, starting: str) -> dict[str, Any]:
    """The names that the page's Python block with this line defines."""
    code = next(each for each in (ROOT / page).read_text().split("```python")[1:] if starting in each.split("```")[0])
    module = types.ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    exec(compile(code.split("```")[0], page, "exec"), vars(module))
    return vars(module)


async def test_the_documented_test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    await block(monkeypatch, "docs/embedded.md", "async def test_an_order_is_billed")["test_an_order_is_billed"]()


def test_the_app_of_the_readme_has_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    (handler,) = block(monkeypatch, "README.md", "async def bill")["app"].registry
    assert (handler.station, handler.group) == ("orders", "billing")
