"""The command line as a user has it: real processes, their output as it comes, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TOKEN = "s3cret-of-the-broker"
DEADLINE_S = 15.0


class Process:
    """A started command. Its output is collected as it comes; `wait_for` waits for a line of it."""

    def __init__(
        self, arguments: list[str], *, cwd: Path, env: Mapping[str, str], stdin: bytes | None, keep_stdin: bool
    ) -> None:
        self.arguments = arguments
        self.process = subprocess.Popen(
            [sys.executable, "-m", "memphis_worker", *arguments],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.out = ""
        self.err = ""
        self._news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._read, args=(self.process.stdout, "out"), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, "err"), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        if stdin is not None:
            self._feed(stdin, keep_stdin)

    def _feed(self, stdin: bytes, keep: bool) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(stdin)
            self.process.stdin.flush()
            if not keep:
                self.process.stdin.close()

    def _read(self, stream: Any, name: str) -> None:
        with stream:
            for line in stream:
                with self._news:
                    setattr(self, name, getattr(self, name) + line.decode(errors="replace"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.out + self.err

    def wait_for(self, pattern: str, *, times: int = 1, within_s: float = DEADLINE_S) -> re.Match[str]:
        """The last of so many matches in the output so far, as soon as there are so many."""
        deadline = time.monotonic() + within_s
        with self._news:
            while True:
                found = list(re.finditer(pattern, self.output))
                if len(found) >= times:
                    return found[times - 1]
                gone = self.process.poll() is not None and not any(each.is_alive() for each in self._threads)
                if gone or time.monotonic() >= deadline:
                    raise AssertionError(f"{pattern!r} is not in the output of {self.arguments}:\n{self.output}")
                self._news.wait(0.1)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = DEADLINE_S) -> int:
        """The exit code, with all output there."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.arguments} does not end:\n{self.output}") from None
        for thread in self._threads:
            thread.join(within_s)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def stop(self, within_s: float = DEADLINE_S) -> int:
        """TERM, and the exit code."""
        self.signal()
        return self.wait(within_s)

    def events(self) -> list[dict[str, Any]]:
        """The log lines."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith('{"timestamp"')]


class CommandLine:
    """Starts `memphis-worker`, in a folder of its own, with nothing of the tester's environment that concerns it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MEMPHIS_WORKER_")}
        self.env = {**clean, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def write(self, name: str, source: str) -> Path:
        path = self.folder / name
        path.write_text(source)
        return path

    def start(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        keep_stdin: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """`keep_stdin`: its input does not end."""
        given = {**self.env, **(env or {})}
        process = Process(list(arguments), cwd=self.folder, env=given, stdin=stdin, keep_stdin=keep_stdin)
        self.processes.append(process)
        return process

    def run(self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> Process:
        """To its end."""
        process = self.start(*arguments, stdin=stdin, env=env)
        process.wait(30)
        return process

    def end(self) -> None:
        """Nothing stays behind, and no output has the broker's token."""
        for process in self.processes:
            if process.process.poll() is None:
                process.process.kill()
            process.wait()
        for process in self.processes:
            assert TOKEN not in process.output, f"the token is in the output of {process.arguments}"


def url_of(dev: Process) -> str:
    """The URL that `dev` prints, with the token that it does not print."""
    found = dev.wait_for(r"A Memphis broker is running:\s+(\S+)").group(1)
    return found.replace(":TOKEN@", f":{TOKEN}@")


def free_ports(*flags: str) -> list[str]:
    """The flags, each with a port that was free a moment ago."""
    return [part for flag in flags for part in (flag, str(free_port()))]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def get(url: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until(condition: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {within_s} s: {what}"
        time.sleep(0.02)


def descendants(pid: int) -> set[int]:
    """The processes below this one, now."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
