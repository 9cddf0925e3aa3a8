"""The table of statuses: what the server says, and what a pull stream makes of it."""

from __future__ import annotations

import pytest

from memphis_worker.client.headers import status_of
from memphis_worker.client.status import FORGETTING, Action, action_of, returned

TABLE = [
    (b"100 Idle Heartbeat", Action.NOTHING),
    (b"100 FlowControl Request", Action.NOTHING),
    (b"404 No Messages", Action.ASK),
    (b"408 Request Timeout", Action.ASK),
    (b"408 Requests Pending", Action.ASK),
    (b"409 Batch Completed", Action.ASK),
    (b"409 Message Size Exceeds MaxBytes", Action.ASK_ALONE),
    (b"409 Leadership Change", Action.ASK_THE_NEW_LEADER),
    (b"409 Server Shutdown", Action.ASK_LATER),
    (b"409 Exceeded MaxWaiting", Action.ASK_ONCE),
    (b"409 Exceeded MaxRequestBatch of 5", Action.ASK_LESS),
    (b"409 Exceeded MaxRequestExpires of 1s", Action.ASK_LESS),
    (b"409 Exceeded MaxRequestMaxBytes of 1000", Action.ASK_LESS),
    (b"503", Action.UNANSWERED),
    (b"503 No Responders", Action.UNANSWERED),
    (b"409 Consumer Deleted", Action.END_MISSING),
    (b"409 Consumer is push based", Action.END_REFUSED),
    (b"400 Bad Request - nonsense", Action.END_REFUSED),
    (b"412 Required Api Level", Action.END_REFUSED),
    (b"409 Consumer Paused", Action.UNKNOWN),
    (b"409", Action.UNKNOWN),
    (b"423 Nats-Wrong-Pin-Id", Action.UNKNOWN),
    (b"500 Whatever", Action.UNKNOWN),
    (b"500 Consumer Deleted", Action.UNKNOWN),
    (b"nonsense", Action.UNKNOWN),
]


@pytest.mark.parametrize(("line", "action"), TABLE)
def test_what_becomes_of_a_status(line: bytes, action: Action) -> None:
    assert action_of(*status_of(b"NATS/1.0 " + line + b"\r\n\r\n")) is action


def test_the_table_has_every_action() -> None:
    assert set(Action) == {action for _, action in TABLE}


def test_older_requests_die_only_where_nobody_has_them_any_more() -> None:
    assert {Action.ASK_THE_NEW_LEADER, Action.UNANSWERED, Action.UNKNOWN} == FORGETTING


@pytest.mark.parametrize(
    ("headers", "count"),
    [
        (b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 12\r\nNats-Pending-Bytes: 0\r\n\r\n", 12),
        (b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: x\r\n\r\n", 0),
        (b"NATS/1.0 404 No Messages\r\n\r\n", 0),
    ],
)
def test_what_the_server_gives_back(headers: bytes, count: int) -> None:
    assert returned(headers) == count
