"""A worker process that is started again when its source changes: for `dev`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import click

__all__ = ["SourceFolder", "StopSignals", "WorkerProcess", "keep_running"]

POLL_S = 0.3
#: A reload waits so long for running handlers, and so long again after asking twice.
RELOAD_S = 5.0
_NOT_SOURCE = {"__pycache__", "node_modules", "site-packages"}


class StopSignals:
    """TERM and INT inside of a `with`: how often they came."""

    def __init__(self) -> None:
        self.times = 0
        # Not an Event: a signal that another thread takes does not wake the main thread out of a lock, and two at
        # once would deadlock in the Event's own. Python writes to this pipe from whatever thread it is.
        self._read_end, self._write_end = os.pipe()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        os.set_blocking(self._write_end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._read_end)
        os.close(self._write_end)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether one has come, now or within the time."""
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.times:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            if left == 0.0:
                return False
            if select.select([self._read_end], [], [], left)[0]:
                os.read(self._read_end, 64)
        return True

    def _came(self, number: int, frame: FrameType | None) -> None:
        self.times += 1


class SourceFolder:
    """The .py files below a folder; `changed()` is true once for each change, when it is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = self._times()
        self._unsettled: dict[str, int] | None = None

    def changed(self) -> bool:
        """Whether files are different from the last time, and have been the same for two looks."""
        now = self._times()
        if now == self._known:
            self._unsettled = None
            return False
        if now != self._unsettled:  # an editor or a checkout may still be at it
            self._unsettled = now
            return False
        self._known, self._unsettled = now, None
        return True

    def _times(self) -> dict[str, int]:
        found = {}
        for where, folders, files in os.walk(self._folder):
            folders[:] = [each for each in folders if not self._skipped(where, each)]
            for name in files:
                if name.endswith(".py"):
                    path = os.path.join(where, name)
                    try:
                        found[path] = os.stat(path).st_mtime_ns
                    except OSError:  # gone since it was listed
                        continue
        return found

    @staticmethod
    def _skipped(where: str, name: str) -> bool:
        return name.startswith(".") or name in _NOT_SOURCE or os.path.exists(os.path.join(where, name, "pyvenv.cfg"))


class WorkerProcess:
    """One worker after another, in a process group of its own: a Ctrl-C in the terminal is for us alone.

    Each gets the read end of a pipe, as `--parent-fd`: when our process is gone, however it went, it stops.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._command = command
        self._env = env
        self._read_end, self._write_end = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            [*self._command, "--parent-fd", str(self._read_end)],
            env=self._env,
            pass_fds=(self._read_end,),
            start_new_session=True,
        )

    def ended(self) -> int | None:
        """The exit code of a worker that has ended by itself, once."""
        if self._process is None or self._process.poll() is None:
            return None
        code, self._process = self._process.returncode, None
        return code

    def stop(self, hurried: Callable[[], bool] = lambda: False, patience_s: float | None = None) -> None:
        """Asks it to stop and waits; asks again when hurried or when the patience is over, and then ends it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        began, asked_again = time.monotonic(), False
        while process.poll() is None:
            time.sleep(0.02)
            impatient = patience_s is not None and time.monotonic() - began > patience_s
            if not asked_again and (impatient or hurried()):
                asked_again = True
                began, patience_s = time.monotonic(), RELOAD_S
                process.terminate()
            elif asked_again and impatient:
                process.kill()
                process.wait()

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)


def keep_running(worker: WorkerProcess, source: SourceFolder, asked: StopSignals) -> None:
    """Runs the worker, anew after each change of its source, until it is asked to stop."""
    worker.start()
    while not asked.wait(POLL_S):
        code = worker.ended()
        if code is not None:
            click.echo(f"memphis-worker dev: the worker ended with exit code {code}; waiting for a changed file")
        if source.changed():
            click.echo("memphis-worker dev: a file has changed; restarting the worker")
            worker.stop(lambda: asked.times > 0, RELOAD_S)
            worker.start()
    worker.stop(lambda: asked.times > 1)
