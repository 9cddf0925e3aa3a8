"""The published SDK memphis-py 0.1.5 works unmodified against the embedded broker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from memphis_worker.embedded import EmbeddedBroker

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("sdk_0_1_5.py")
REQUIREMENT = "memphis-py==0.1.5"
RUN_S = 60
UNREACHABLE = ("NewConnectionError", "ConnectTimeoutError", "No matching distribution found", "ProxyError")


@pytest.fixture(scope="module")
def sdk_python() -> Path:
    """The Python of a venv with the SDK, made once in `.cache/`. Skips when the package index cannot be reached."""
    venv = ROOT / ".cache" / f"sdk-0.1.5-py{sys.version_info.major}.{sys.version_info.minor}"
    python, ready = venv / "bin" / "python", venv / "ready"
    if not ready.exists():
        venv.parent.mkdir(exist_ok=True)
        (venv.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, done.stderr
        ready.touch()
    return python


async def test_published_sdk_works_unmodified(sdk_python: Path) -> None:
    async with EmbeddedBroker() as broker:
        ports = [str(port) for port in (broker.management_port, broker.tcp_port, broker.data_port)]
        program = await asyncio.create_subprocess_exec(
            str(sdk_python), str(SCRIPT), *ports, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(RUN_S):
            output, _ = await program.communicate()
    printed = output.decode().splitlines()
    assert printed == [
        "connected",
        "factory sdk_factory, again sdk_factory",
        "station sdk_station, again sdk_station",
        "produced 25",
        "consumed 25",
        "refused: has to be unique",
        "refused: Station does not exist",
        "destroyed",
        "closed",
    ]
    assert program.returncode == 0
