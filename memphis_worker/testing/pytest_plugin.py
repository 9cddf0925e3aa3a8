"""Fixtures for pytest: `pytest_plugins = ["memphis_worker.testing.pytest_plugin"]` in a conftest.py.

For virtual time, give pytest-asyncio the loop in the same file:
`def pytest_asyncio_loop_factories(config, item): return {"virtual": VirtualLoop}`; or call `run()` in a plain test.
"""

from __future__ import annotations

import pytest

from memphis_worker.testing.memory import MemoryBroker

__all__ = ["memphis_broker"]


@pytest.fixture
def memphis_broker() -> MemoryBroker:
    """An empty broker for one test, to look into and to harm: `running(app, broker=memphis_broker)`."""
    return MemoryBroker()
