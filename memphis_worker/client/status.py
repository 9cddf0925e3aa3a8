"""What the server says in place of a message, and what a pull stream makes of it: a table, nothing is done here.

Codes and texts are those of nats-server (server/consumer.go); docs/delivery.md tells what follows from each.
"""

from __future__ import annotations

from enum import Enum, auto

from memphis_worker.client.headers import parse_headers

__all__ = ["FORGETTING", "Action", "action_of", "returned"]


class Action(Enum):
    """What to do about a status."""

    NOTHING = auto()
    """A heartbeat."""
    ASK = auto()
    """The request has ended as it should: ask again at once."""
    ASK_ALONE = auto()
    """The next message is larger than the request may bring: once nothing is held, ask for it alone."""
    ASK_THE_NEW_LEADER = auto()
    """All requests that the old leader had are dead: ask again at once."""
    ASK_LATER = auto()
    """The server is going: ask again a little later."""
    ASK_ONCE = auto()
    """Too many requests wait: back off, then keep one only."""
    ASK_LESS = auto()
    """The group allows less than we asked for."""
    UNANSWERED = auto()
    """No leader: back off, and after 30 s look the group up."""
    UNKNOWN = auto()
    """Never seen: as if unanswered, and say so."""
    END_MISSING = auto()
    """The group was deleted."""
    END_REFUSED = auto()
    """The group cannot be pulled from."""


#: The request dies with all that were made before it. After any other status it alone has ended.
FORGETTING = frozenset({Action.ASK_THE_NEW_LEADER, Action.UNANSWERED, Action.UNKNOWN})

_BY_CODE = {100: Action.NOTHING, 404: Action.ASK, 408: Action.ASK, 503: Action.UNANSWERED}
_BY_TEXT = {
    "Batch Completed": Action.ASK,
    "Message Size Exceeds MaxBytes": Action.ASK_ALONE,
    "Leadership Change": Action.ASK_THE_NEW_LEADER,
    "Server Shutdown": Action.ASK_LATER,
    "Exceeded MaxWaiting": Action.ASK_ONCE,
    "Exceeded MaxRequest": Action.ASK_LESS,
}
#: Only these are for good: a 409 that a later server invents may pass, and must not end a group's worker.
_ENDS = {
    400: {"": Action.END_REFUSED},
    409: {"Consumer Deleted": Action.END_MISSING, "Consumer is push based": Action.END_REFUSED},
    412: {"": Action.END_REFUSED},
}


def action_of(code: int, text: str) -> Action:
    if code in _BY_CODE:
        return _BY_CODE[code]
    for beginning, action in (*_BY_TEXT.items(), *_ENDS.get(code, {}).items()):
        if text.startswith(beginning):
            return action
    return Action.UNKNOWN


def returned(headers: bytes) -> int:
    """What the server gives back of a request that ends [messages]."""
    number = parse_headers(headers).get("Nats-Pending-Messages", "0")
    return int(number) if number.isdigit() else 0
