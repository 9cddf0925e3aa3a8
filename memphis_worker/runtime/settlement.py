"""What becomes of a delivery: `decide()` says it as a value, `settle()` is the only place that answers the broker.

Success has its own short way (`Message.settle_ack`, in the executor). Everything else comes through here, in a task
of its own that no cancel of a handler reaches.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from memphis_worker.client.message import Message
from memphis_worker.failure import describe
from memphis_worker.handler import Handler, Undecodable
from memphis_worker.log import get_logger
from memphis_worker.retry import Reject, Retry
from memphis_worker.runtime.instrument import Instrument

__all__ = ["CRASH_MARGIN", "DeadLetter", "Decision", "Discard", "Lost", "Redeliver", "Release", "Settlement", "decide"]

log = get_logger(__name__)

#: Deliveries beyond `max_msg_deliveries` after which a message that never failed here is taken for one that kills
#: its process, and is dead-lettered unrun.
CRASH_MARGIN = 3
UNRECORDED_PAUSE_S = (30.0, 60.0)

Reason = Literal["exhausted", "rejected", "undecodable", "timeout", "crashed"]


@dataclass(frozen=True, slots=True)
class Redeliver:
    """Again, after a pause."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Recorded, confirmed, and then never again for this group."""

    reason: Reason
    error: str = ""


@dataclass(frozen=True, slots=True)
class Discard:
    """Never again, and recorded nowhere: the handler's `dead_letter=False` asked for it."""

    reason: Reason
    error: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """Handed back as it came: it costs a delivery, not an attempt."""

    ran: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease was over before the outcome: the broker has given it away, and nothing may be said."""


Decision = Redeliver | DeadLetter | Discard | Release | Lost


def decide(
    handler: Handler,
    deliveries: int,
    max_deliver: int,
    error: BaseException | None,
    *,
    cancelled: Literal["stop", "timeout", "lease"] | None = None,
    chance: float = 1.0,
) -> Decision:
    """The fate of a delivery that did not succeed. Pure.

    deliveries:  of this message to this group, this one included (a hint: crashes count too).
    max_deliver: what the broker allows, -1 for no limit; past it a release would be a silent loss.
    error:       what the handler raised; `None` for a message that never ran.
    cancelled:   why the executor cancelled the handler, if it did.
    chance:      a random number from 0 to 1, for the jitter.
    """
    last = 0 < max_deliver <= deliveries
    if cancelled == "lease":
        return Lost()
    if error is None or cancelled == "stop":
        if last and error is not None:
            return _dead(handler, "exhausted", "cut off by the shutdown on the last delivery that the broker allows")
        return Release(ran=error is not None)
    text = describe(error)
    if isinstance(error, Undecodable):
        return _dead(handler, "undecodable", text)
    if isinstance(error, Reject):
        return _dead(handler, "rejected", text)
    if last or deliveries >= handler.options.max_msg_deliveries:
        return _dead(handler, "timeout" if cancelled == "timeout" else "exhausted", text)
    if isinstance(error, Retry) and error.after_s is not None:
        return Redeliver(max(0.0, error.after_s))
    return Redeliver(handler.retry.delay_s(deliveries, chance))


def crashed(handler: Handler) -> Decision:
    """The fate of a message that came too often without ever failing here."""
    return _dead(handler, "crashed", "delivered beyond max_msg_deliveries without a failure: it may kill its process")


def _dead(handler: Handler, reason: Reason, error: str) -> Decision:
    return Discard(reason, error) if handler.options.dead_letter is False else DeadLetter(reason, error)


class Settlement:
    """Carries out decisions. `record` stores a dead letter and returns when the broker has confirmed it."""

    def __init__(
        self, record: Callable[[Handler, Message, DeadLetter], Awaitable[None]], instrument: Instrument
    ) -> None:
        self._record = record
        self._instrument = instrument
        self.pending: dict[asyncio.Task[None], tuple[Handler, Message]] = {}
        """Dead letters on their way."""
        self.unrecorded = 0
        """Dead letters in a row that could not be recorded."""
        self.unsent = 0
        """Answers that could not be given: their messages come back after the ack wait."""

    def settle(self, handler: Handler, message: Message, decision: Decision, duration_s: float = 0.0) -> None:
        """Answers now where that takes no waiting, in a task where it does."""
        match decision:
            case Redeliver(delay_s):
                self._nak(handler, message, delay_s)
                self._instrument.finished(handler, message, "retry", duration_s)
            case Release(ran):
                self._nak(handler, message, 0.0)
                self._instrument.finished(handler, message, "cancelled" if ran else "released", duration_s)
            case Lost():
                message.drop()
                self._instrument.finished(handler, message, "cancelled", duration_s)
            case Discard(reason, error):
                log.warning("message.rejected", **facts(handler, message), reason=reason, error=error)
                self._term(handler, message)
                self._instrument.finished(handler, message, "reject", duration_s)
            case DeadLetter():
                task = asyncio.get_running_loop().create_task(
                    self._bury(handler, message, decision, duration_s), name=f"dead_letter {handler.name}"
                )
                self.pending[task] = (handler, message)
                task.add_done_callback(lambda done: self.pending.pop(done, None))

    def dying(self, handler: Handler) -> list[Message]:
        """Messages of a handler whose dead letter is on its way. Also for another thread.

        A settled one is finished already: its task has only its end before it.
        """
        return [message for of, message in list(self.pending.values()) if of is handler and not message.settled]

    async def finish(self) -> None:
        """Returns when every dead letter under way has its end."""
        while self.pending:
            await asyncio.wait(self.pending)

    async def _bury(self, handler: Handler, message: Message, dead: DeadLetter, duration_s: float) -> None:
        """Recorded and confirmed first; only then is the message taken from the group."""
        try:
            await self._record(handler, message, dead)
        except Exception as exc:  # noqa: BLE001 - whatever it was, the message must not be lost over it
            self.unrecorded += 1
            self._instrument.settle_failed(handler, "dead_letter")
            log.error("message.dead_letter_failed", **facts(handler, message), reason=dead.reason, error=describe(exc))
            self._nak(handler, message, random.uniform(*UNRECORDED_PAUSE_S))  # noqa: S311
            self._instrument.finished(handler, message, "retry", duration_s)
            return
        self.unrecorded = 0
        log.error("message.dead_lettered", **facts(handler, message), reason=dead.reason, error=dead.error)
        self._instrument.dead_lettered(handler, message, dead.reason)
        self._term(handler, message)
        self._instrument.finished(handler, message, "dead_letter", duration_s)

    def _nak(self, handler: Handler, message: Message, delay_s: float) -> None:
        if not message.settle_nak(delay_s):
            self._unsent(handler, message, "nak")

    def _term(self, handler: Handler, message: Message) -> None:
        if not message.settle_term():
            self._unsent(handler, message, "term")

    def _unsent(self, handler: Handler, message: Message, operation: str) -> None:
        """The lease is over or the connection is down: the broker delivers it again after the ack wait."""
        self.unsent += 1
        self._instrument.settle_failed(handler, operation)
        log.info("message.settle_failed", **facts(handler, message), operation=operation)


def facts(handler: Handler, message: Message) -> dict[str, object]:
    """What a log line says of a message: never its body, never its headers."""
    return {
        "handler": handler.name,
        "station": handler.station,
        "consumer_group": handler.group,
        "stream_seq": message.sequence,
        "delivery_count": message.deliveries,
    }
