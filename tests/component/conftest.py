"""Component tests: production code on a MemoryBroker, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import structlog

from memphis_worker.testing import VirtualLoop
from memphis_worker.testing.pytest_plugin import memphis_broker

__all__ = ["memphis_broker"]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Any]:
    return {"virtual": VirtualLoop}


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What was logged: dicts with `event` and `log_level`."""
    with structlog.testing.capture_logs() as captured:
        yield captured
