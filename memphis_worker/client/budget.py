"""The bytes that a process holds, shared by all of its pull streams."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ByteBudget"]


class ByteBudget:
    """Above half of `limit` nobody asks for more; below it, those that wait are called (hysteresis)."""

    def __init__(self, limit: int, streams: int) -> None:
        self.limit = limit
        self.streams = max(1, streams)
        self.held = 0
        self.waiting: set[Callable[[], None]] = set()

    @property
    def open(self) -> bool:
        return self.held <= self.limit // 2

    def share(self, max_payload: int) -> int:
        """What one pull may ask for [bytes]."""
        return max(2 * max_payload, self.limit // self.streams)

    def wake(self) -> None:
        """Calls each of those that waited, once."""
        waiting, self.waiting = self.waiting, set()
        for pull in waiting:
            pull()
