"""What this process has finished already, so that a redelivery is acked again instead of run again.

A server that is killed at full speed forgets the acks of its last 100 ms: some 14,000 at 100,000 messages a second.
"""

from __future__ import annotations

from array import array

__all__ = ["Done"]

SIZE = 131_072
_MASK = SIZE - 1


class Done:
    """A ring from stream sequence to store time: 1 MiB, the last 131,072 sequences."""

    __slots__ = ("_ring",)

    def __init__(self) -> None:
        self._ring = array("Q", bytes(8 * SIZE))

    def add(self, sequence: int, stored_ns: int) -> None:
        """Sequence 0, a message without one, is never found."""
        self._ring[sequence & _MASK] = stored_ns if sequence else 0

    def has(self, sequence: int, stored_ns: int) -> bool:
        return sequence > 0 and self._ring[sequence & _MASK] == stored_ns
