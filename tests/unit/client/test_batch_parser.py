"""Frames as the socket cuts them: whatever the reads, the sinks see the same."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from nats.errors import ProtocolError

from memphis_worker.client.nats_parser import CONTROL_LINE_MAX, BatchParser

Seen = list[tuple[Any, ...]]
INFO = b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576}\r\n'
STREAM = (
    INFO
    + b"MSG orders.final 1 $JS.ACK.a.b.1.1.1.1.0 5\r\nhello\r\n"
    + b"PING\r\n"
    + b"MSG a 1 0\r\n\r\n"
    + b"HMSG inbox.1 2 28 28\r\nNATS/1.0 408 Request Timeout\r\n"
    + b"HMSG orders.final 1 reply 22 27\r\nNATS/1.0\r\nname: vv\r\n\r\n\r\nMSG\r\n"
    + b"-ERR 'Permissions Violation for Subscription to \"x\"'\r\n"
    + b"MSG other 99 3\r\nabc\r\n"
    + b"HMSG other 99 12 15\r\nNATS/1.0\r\n\r\nxyz\r\n"
    + b"PONG\r\n"
    + b"+OK\r\n"
    + b"MSG a 1 12\r\nMSG b 1 1\r\nx\r\n"
)
EXPECTED: Seen = [
    ("info", "x"),
    (1, b"orders.final", b"$JS.ACK.a.b.1.1.1.1.0", b"", b"hello"),
    ("ping",),
    (1, b"a", b"", b"", b""),
    (2, b"inbox.1", b"", b"NATS/1.0 408 Request Timeout", b""),
    (1, b"orders.final", b"reply", b"NATS/1.0\r\nname: vv\r\n\r\n", b"\r\nMSG"),
    ("error", "'Permissions Violation for Subscription to \"x\"'"),
    ("nats", 99, b"other", b"", b"abc", b""),
    ("nats", 99, b"other", b"", b"xyz", b"NATS/1.0\r\n\r\n"),
    ("pong",),
    (1, b"a", b"", b"", b"MSG b 1 1\r\nx"),
]


class Client:
    """What nats-py's parser calls of its client."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self._seen.append(("nats", sid, subject, reply, data, headers))

    async def _process_ping(self) -> None:
        self._seen.append(("ping",))

    async def _process_pong(self) -> None:
        self._seen.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self._seen.append(("error", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self._seen.append(("info", info["server_id"]))


def parser(seen: Seen) -> BatchParser:
    def sink(sid: int) -> Any:
        return lambda *frame: seen.append((sid, *frame))

    return BatchParser(Client(seen), {b"1": sink(1), b"2": sink(2)})  # type: ignore[arg-type]


def normal(seen: Seen) -> Seen:
    """nats-py hands the error over in lower case or not, by version; we do not care."""
    return [("error", each[1].lower()) if each[0] == "error" else each for each in seen]


async def test_one_read_with_everything_in_it() -> None:
    seen: Seen = []
    await parser(seen).parse(STREAM)
    assert normal(seen) == normal(EXPECTED)


async def test_a_cut_at_any_byte_changes_nothing() -> None:
    for at in range(1, len(STREAM)):
        seen: Seen = []
        each = parser(seen)
        await each.parse(STREAM[:at])
        await each.parse(STREAM[at:])
        assert normal(seen) == normal(EXPECTED), f"cut at {at}"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
async def test_reads_of_a_few_bytes_change_nothing(size: int) -> None:
    seen: Seen = []
    each = parser(seen)
    for at in range(0, len(STREAM), size):
        await each.parse(STREAM[at : at + size])
    assert normal(seen) == normal(EXPECTED)


async def test_a_large_payload_in_many_reads_arrives_whole() -> None:
    seen: Seen = []
    each = parser(seen)
    body = bytes(range(256)) * 4096
    data = b"MSG a 1 %d\r\n%b\r\nMSG a 1 1\r\ny\r\n" % (len(body), body)
    for at in range(0, len(data), 60_000):
        await each.parse(data[at : at + 60_000])
    assert seen == [(1, b"a", b"", b"", body), (1, b"a", b"", b"", b"y")]


async def test_a_sink_that_raises_loses_its_own_frame_only() -> None:
    seen: Seen = []

    def raises(*frame: bytes) -> None:
        raise RuntimeError("broken")

    each = BatchParser(Client(seen), {b"1": raises, b"2": lambda *frame: seen.append(frame)})  # type: ignore[arg-type]
    with structlog.testing.capture_logs() as logs:
        await each.parse(b"MSG a 1 1\r\nx\r\nMSG a 2 1\r\ny\r\nPING\r\n")
    assert seen == [(b"a", b"", b"", b"y"), ("ping",)]
    assert [entry["event"] for entry in logs] == ["transport.sink_failed"]


async def test_a_sink_may_end_its_own_subscription_within_a_read() -> None:
    seen: Seen = []
    sinks: dict[bytes, Any] = {}

    def once(*frame: bytes) -> None:
        seen.append(frame)
        del sinks[b"1"]

    sinks[b"1"] = once
    each = BatchParser(Client(seen), sinks)  # type: ignore[arg-type]
    await each.parse(b"MSG a 1 1\r\nx\r\nMSG a 1 1\r\ny\r\n")
    assert seen == [(b"a", b"", b"", b"x"), ("nats", 1, b"a", b"", b"y", b"")]


async def test_a_line_that_never_ends_is_an_error() -> None:
    each = parser([])
    with pytest.raises(ProtocolError):
        await each.parse(b"MSG " + b"x" * (CONTROL_LINE_MAX + 1))


async def test_a_line_that_never_ends_in_small_reads_is_an_error_too() -> None:
    each = parser([])
    for _ in range(CONTROL_LINE_MAX // 1000):
        await each.parse(b"M" * 1000)
    with pytest.raises(ProtocolError):
        await each.parse(b"M" * 1000)


async def test_a_reset_forgets_half_a_frame() -> None:
    seen: Seen = []
    each = parser(seen)
    await each.parse(b"MSG a 1 100\r\nhalf")
    each.reset()
    await each.parse(b"MSG a 1 1\r\nx\r\n")
    assert seen == [(1, b"a", b"", b"", b"x")]


async def test_a_reset_while_a_frame_of_nats_py_is_handled_drops_the_rest_of_the_read() -> None:
    seen: Seen = []

    class Resetting(Client):
        async def _process_ping(self) -> None:
            each.reset()

    each = BatchParser(Resetting(seen), {b"1": lambda *frame: seen.append(frame)})  # type: ignore[arg-type]
    await each.parse(b"PING\r\nMSG a 1 1\r\nx\r\n")
    await each.parse(b"MSG a 1 1\r\ny\r\n")
    assert seen == [(b"a", b"", b"", b"y")]


@pytest.mark.parametrize(
    "line",
    [
        b"NONSENSE\r\n",
        b"\r\n",
        b"MSG\r\n",
        b"MSG 3\r\nabc\r\n",
        b"MSG a 3\r\nabc\r\n",
        b"MSG a 1 x\r\n",
        b"MSG a 1 -20\r\n",
        b"MSG a x 1\r\ny\r\n",
        b"MSG a 1 reply more 1\r\ny\r\n",
        b"HMSG a 1\r\n",
        b"HMSG a 1 12\r\nNATS/1.0\r\n\r\n\r\n",
        b"HMSG a 1 1 x\r\n",
        b"HMSG a 1 -1 1\r\nx\r\n",
        b"HMSG a 1 13 12\r\nNATS/1.0\r\n\r\n\r\n",
    ],
)
async def test_a_line_that_cannot_be_read_is_an_error_that_makes_nats_py_reconnect(line: bytes) -> None:
    """Any other exception ends its read loop and leaves it connected and deaf; a length below 0 would never end."""
    seen: Seen = []
    with pytest.raises(ProtocolError):
        await parser(seen).parse(line)
    assert seen == []
