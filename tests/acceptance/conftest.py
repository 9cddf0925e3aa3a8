"""A command line for each test, and one broker that `memphis-worker dev` has started for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import TOKEN, CommandLine, free_ports, url_of


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    line = CommandLine(tmp_path)
    yield line
    line.end()


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker that all tests of the session share; each uses stations of its own."""
    line = CommandLine(tmp_path_factory.mktemp("dev"))
    process = line.start("dev", *free_ports("--management-port", "--tcp-port", "--data-port"), "--token", TOKEN)
    try:
        yield url_of(process)
        assert process.stop() == 0
    finally:
        line.end()
