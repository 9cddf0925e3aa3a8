"""The folder of an embedded broker: temporary and removed at the end, or given and kept; one broker at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from memphis_worker.errors import InvalidOption

WAIT_S = 6.0
"""A nats-server whose broker was killed needs a moment to go; it holds the lock until then."""
TRY_EVERY_S = 0.05


class Folder:
    """`path` is None until `open()`. `kept` False: the folder is a temporary one."""

    def __init__(self, directory: Path | None) -> None:
        self._given = directory
        self._lock: int | None = None
        self.path: Path | None = None

    @property
    def kept(self) -> bool:
        """Whether what is in it outlives the broker."""
        return self._given is not None

    @property
    def lock(self) -> int:
        """The file descriptor that locks it; the child processes inherit it."""
        assert self._lock is not None
        return self._lock

    async def open(self) -> Path:
        """Makes and locks it. `InvalidOption` when it cannot be made, or another broker works in it."""
        try:
            self.path = self._made()
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InvalidOption(f"cannot use the folder {self._given}: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(WAIT_S):
                while not self._locked():  # noqa: ASYNC110 - the holder is another process
                    await asyncio.sleep(TRY_EVERY_S)
        except TimeoutError:
            raise InvalidOption(f"another embedded broker works in {self.path}; choose another --dir") from None
        return self.path

    def _made(self) -> Path:
        if self._given is None:
            return Path(tempfile.mkdtemp(prefix="memphis-worker-"))
        self._given.mkdir(parents=True, exist_ok=True)
        return self._given.resolve()

    def _locked(self) -> bool:
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Unlocks it, and removes it when it is temporary."""
        if self._lock is not None:
            os.close(self._lock)
        if self.path is not None and not self.kept:
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock = self.path = None
