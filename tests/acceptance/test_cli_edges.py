"""Where the command line meets the system: pipes that break, terminals that close, brokers that end at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_worker_whose_output_nobody_reads_any_more_drains_and_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(
        "from memphis_worker import App\n"
        "app = App()\n"
        "@app.handler(station='orders')\n"
        "async def bill(body: bytes) -> None:\n"
        "    print('handled', flush=True)\n"
    )
    environment = {**os.environ, "MEMPHIS_WORKER_URL": "embedded:"}
    command = f"{sys.executable} -m memphis_worker run talks:app --no-http --log-format json --log-level debug"
    shell = f"{command} | head -n 3; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended
    assert ended.stderr.count("\n") <= 1
    assert "Traceback" not in ended.stderr


def test_a_terminal_that_is_closed_stops_the_worker_as_a_signal_does(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text(
        "from memphis_worker import App\n"
        "app = App()\n"
        "@app.handler(station='orders')\n"
        "async def bill(body: bytes) -> None: ...\n"
    )
    command = [sys.executable, "-m", "memphis_worker", "run", "quiet:app", "--embedded", "--no-http"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if "worker.started" in line:
                process.send_signal(signal.SIGHUP)
                break
        rest = lines.read()
    assert process.wait(30) == 0
    assert "SIGHUP" in rest


@pytest.mark.parametrize("command", [["send", "orders", "x"], ["lag"], ["stations", "list"]])
def test_a_broker_that_would_be_gone_at_once_is_refused(command: list[str], tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "memphis_worker", *command, "--url", "embedded:"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "embedded:///" in ended.stderr


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_time_limit_that_is_no_number_is_refused(value: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "memphis_worker", "lag", "--timeout", value],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("dev --tcp-port 17777 --data-port 17777 --management-port 0", "17777"),
        ("send orders - <&-", "standard input is closed"),
    ],
)
def test_what_the_shell_gave_is_refused_in_one_line(command: str, words: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m memphis_worker {command}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert words in ended.stderr
