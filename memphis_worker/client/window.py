"""The credit of one pull stream: what it holds, what its live requests may still bring, and what it may ask for now.

Pure accounting: no transport and no timer, the time is passed in. Credit is exact: `held + out` is never more than
`size` when something is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Request", "Window"]

LIVE_MAX = 8
PREFETCH_MAX = 1000
PREFETCH_SPAN_S = 0.02


@dataclass(frozen=True, slots=True)
class Request:
    """A pull that the server has, for `batch` messages; without a word of it until `deadline` it is dead."""

    batch: int
    deadline: float


@dataclass(slots=True, eq=False)
class Window:
    """The stream counts `held`, `out` and `settled` itself, in place: a call for each message would cost too much."""

    concurrency: int
    ack_wait_s: float
    batch_max: int | None = None

    held: int = 0
    """What came and is not settled."""
    resent: int = 0
    """The part of `held` that an operator sent again: it was never asked for."""
    out: int = 0
    """What live requests may still bring."""
    live: dict[int, Request] = field(default_factory=dict)
    """Requests by their number, in the order in which they were made."""
    one_request: bool = False
    """The server takes no second request of ours."""
    one_message: bool = False
    """The next message is larger than a request may bring: it is asked for alone, without a limit of bytes."""

    settled: int = 0
    since: float = 0.0
    """`settled` counts from here."""
    _prefetch: int = 0

    @property
    def size(self) -> int:
        """The most that may be held and asked for: what runs, and what runs next (finished in the last 20 ms)."""
        return self.concurrency + self._prefetch

    # ------------------------------------------------------------- asking

    def wanted(self) -> int:
        """How many messages to ask for now. 0 while at most a quarter is free, or more than half is on its way."""
        size, out = self.size, self.out
        free = size - self.held - out
        if out and (out > size // 2 or free < max(1, size // 4)):
            return 0
        if free < 1 or len(self.live) >= (1 if self.one_request else LIVE_MAX):
            return 0
        return 1 if self.one_message else min(free, self.batch_max or free)

    def asked(self, number: int, request: Request) -> None:
        self.live[number] = request
        self.out += request.batch

    # ------------------------------------------------------------- forgetting

    def ended(self, number: int, returned: int) -> None:
        """The server says so of this request, and gives back what it has not brought."""
        request = self.live.pop(number, None)
        if not self.live:
            self.out = 0
        elif request is not None:
            self.out = max(0, self.out - returned)

    def expire(self, now: float) -> None:
        for number in [number for number, request in self.live.items() if request.deadline <= now]:
            del self.live[number]
        self._bound()

    def forget(self) -> None:
        """Nothing more comes from any request."""
        self.live.clear()
        self.out = 0

    def forget_until(self, number: int) -> None:
        """This request and all that were asked for before it are dead; what was asked for since may well live."""
        for each in [each for each in self.live if each <= number]:
            del self.live[each]
        self._bound()

    def _bound(self) -> None:
        # A message does not name its request, so what a dead one still owed is known only where the others cannot: what
        # is beyond their batches goes back now, the rest when the last of them ends.
        self.out = min(self.out, sum(request.batch for request in self.live.values()))

    # ------------------------------------------------------------- measuring

    def measure(self, now: float) -> None:
        """Every 20 ms: how much is finished in 20 ms, to be asked for ahead."""
        span = now - self.since
        if span >= PREFETCH_SPAN_S:
            self._prefetch = self._prefetch_for(self.settled / span)
            self.settled = 0
            self.since = now

    def _prefetch_for(self, rate: float) -> int:
        """Nothing where the whole window would then take over a quarter of the ack wait."""
        prefetch = min(PREFETCH_MAX, max(1, int(rate * PREFETCH_SPAN_S)))
        if self.concurrency + prefetch > rate * self.ack_wait_s / 4:
            return 0
        return prefetch
