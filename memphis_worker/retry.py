"""When a failed message is tried again, and what a handler may raise to say so. Pure: no clock, no chance."""

from __future__ import annotations

from dataclasses import dataclass

from memphis_worker.checked import check_types
from memphis_worker.errors import InvalidOption

AFTER_MAX_S = 30 * 86_400

__all__ = ["Backoff", "Reject", "Retry"]


class Retry(Exception):
    """Raised by a handler: try this message again, after `after_s` seconds (`None`: as the policy says)."""

    def __init__(self, reason: str = "", *, after_s: float | None = None) -> None:
        if after_s is not None and not (isinstance(after_s, int | float) and 0 <= after_s <= AFTER_MAX_S):
            raise InvalidOption(f"Retry: after_s is {after_s!r}; it must be seconds from 0 to {AFTER_MAX_S} (30 days)")
        super().__init__(reason)
        self.after_s = after_s


class Reject(Exception):
    """Raised by a handler: never try this message again; it goes to the dead letters with this reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses that grow: `base_s * factor ** (attempt - 1)`, at most `max_s`, times 0.5 to 1 where `jitter` is on."""

    base_s: float = 1.0
    factor: float = 2.0
    max_s: float = 300.0
    jitter: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        if self.base_s < 0:
            raise InvalidOption(f"Backoff: base_s is {self.base_s}; it must be 0 or more")
        if self.factor < 1:
            raise InvalidOption(f"Backoff: factor is {self.factor}; it must be 1 or more")
        if self.max_s < self.base_s:
            raise InvalidOption(f"Backoff: max_s is {self.max_s}, below base_s, {self.base_s}")

    def delay_s(self, attempt: int, chance: float = 1.0) -> float:
        """The pause after the failed `attempt` (from 1) [s]. `chance`: a random number from 0 to 1."""
        exponent = min(max(attempt, 1) - 1, 64)
        try:
            delay = min(self.max_s, self.base_s * self.factor**exponent)
        except OverflowError:
            delay = self.max_s
        return delay * (0.5 + 0.5 * chance) if self.jitter else delay
