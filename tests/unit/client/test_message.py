from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from memphis_worker.client.message import Message
from memphis_worker.errors import Disconnected


class Wire:
    """Where answers go: a transport of two verbs."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bytes]] = []
        self.connected = True
        self.full = False

    def publish(self, subject: bytes, payload: bytes = b"") -> None:
        if self.full:
            raise Disconnected("full")
        self.sent.append((subject, payload))

    def publish_now(self, subject: bytes, payload: bytes = b"") -> bool:
        if self.full:
            raise Disconnected("full")
        if self.connected:
            self.sent.append((subject, payload))
        return self.connected


class Origin:
    stream, group, station, ack_wait_s = "ORDERS", "bill", "orders", 10.0

    def __init__(self) -> None:
        self.transport: Any = Wire()
        self.now = 100.0
        self.done: list[Message] = []

    def time(self) -> float:
        return self.now

    def settled(self, message: Message) -> None:
        self.done.append(message)


REPLY = b"$JS.ACK.ORDERS.bill.3.77.200.1700000000000000000.12"
HEADERS = b"NATS/1.0\r\ntrace: 7\r\ntrace: 8\r\nbad: \xff\r\n\r\n"


def made(reply: bytes = REPLY, headers: bytes = b"", data: bytes = b"{}") -> tuple[Message, Origin]:
    origin = Origin()
    return Message(origin, b"orders.final", reply, headers, data, origin.now), origin


@pytest.mark.parametrize(
    "reply",
    [
        REPLY,
        b"$JS.ACK.domain.hash.ORDERS.bill.3.77.200.1700000000000000000.12",
        b"$JS.ACK._.hash.ORDERS.bill.3.77.200.1700000000000000000.12.random",
    ],
)
def test_what_the_reply_subject_says_is_read_in_every_form(reply: bytes) -> None:
    message, _ = made(reply)
    assert (message.deliveries, message.sequence, message.partition_pending) == (3, 77, 12)
    assert message.stored_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert not message.resent


def test_a_resent_message_has_no_sequence() -> None:
    message, _ = made(b"")
    assert (message.resent, message.sequence, message.deliveries) == (True, 0, 1)


@pytest.mark.parametrize(
    "numbers",
    [
        b"x.77.200.1700000000000000000.12",
        b"3.x.200.1700000000000000000.12",
        b"3.77.200..12",
        b"3.77.200.1700000000000000000.\xff",
        b"3.18446744073709551616.200.1700000000000000000.12",
        b"3.77.200.9223372036854775808.12",
        b"3.77.200.-1.12",
        b"3.77.200." + b"9" * 5000 + b".12",
    ],
)
def test_numbers_that_cannot_be_are_none(numbers: bytes) -> None:
    message, _ = made(b"$JS.ACK.ORDERS.bill." + numbers)
    assert (message.deliveries, message.sequence, message.stored_ns, message.partition_pending) == (1, 0, 0, 0)
    assert message.stored_at == datetime.fromtimestamp(0, UTC)
    assert not message.resent


def test_body_and_headers_are_given_as_they_came() -> None:
    message, _ = made(headers=HEADERS, data=b'{"a": 1}')
    assert (message.data, message.get_data(), message.json()) == (b'{"a": 1}', b'{"a": 1}', {"a": 1})
    assert message.headers == message.get_headers() == {"trace": "8", "bad": "\ufffd"}
    assert message.raw_headers == HEADERS
    assert message.size == len(b"orders.final") + len(REPLY) + len(HEADERS) + 8
    assert (message.stream, message.group, message.station, message.subject) == (
        "ORDERS",
        "bill",
        "orders",
        "orders.final",
    )


def test_the_repr_holds_no_body() -> None:
    message, _ = made(data=b"secret")
    assert repr(message) == "<Message orders/bill sequence=77 deliveries=3 bytes=6>"


async def test_each_answer_has_its_bytes_and_is_given_once() -> None:
    for name, arguments, payload in (
        ("ack", (), b""),
        ("nak", (), b"-NAK"),
        ("nak", (0,), b"-NAK"),
        ("nak", (-1,), b"-NAK"),
        ("nak", (2.5,), b'-NAK {"delay":2500000000}'),
        ("reject", ("why",), b"+TERM"),
    ):
        message, origin = made()
        await getattr(message, name)(*arguments)
        await message.ack()
        assert not await message.nak()
        assert not await message.reject()
        assert not await message.extend()
        assert origin.transport.sent == [(REPLY, payload)]
        assert origin.done == [message]


@pytest.mark.parametrize("delay_s", [float("inf"), 1e30])
async def test_a_pause_is_never_more_than_the_server_can_read(delay_s: float) -> None:
    message, origin = made()
    assert await message.nak(delay_s)
    assert json.loads(origin.transport.sent[0][1].partition(b" ")[2])["delay"] < 2**63


async def test_after_nine_tenths_of_the_ack_wait_only_an_ack_is_sent() -> None:
    for name in ("nak", "reject", "extend"):
        message, origin = made()
        origin.now += 9.0
        assert not message.leased
        assert not await getattr(message, name)()
        assert origin.transport.sent == []
    message, origin = made()
    origin.now += 1000
    await message.ack()
    assert origin.transport.sent == [(REPLY, b"")]


async def test_an_extension_starts_the_lease_anew_and_settles_nothing() -> None:
    message, origin = made()
    origin.now += 8.0
    assert await message.extend()
    assert (message.lease_end, message.settled, origin.done) == (117.0, False, [])
    assert origin.transport.sent == [(REPLY, b"+WPI")]


async def test_while_disconnected_only_an_ack_is_written() -> None:
    for name in ("nak", "reject"):
        message, origin = made()
        origin.transport.connected = False
        assert not await getattr(message, name)()
        assert (message.settled, origin.done) == (True, [message])
    message, origin = made()
    origin.transport.connected = False
    assert not await message.extend()
    assert not message.settled
    await message.ack()
    assert origin.transport.sent == [(REPLY, b"")]


@pytest.mark.parametrize("name", ["ack", "nak", "reject"])
async def test_an_answer_that_cannot_be_written_is_raised_and_the_place_is_free_all_the_same(name: str) -> None:
    message, origin = made()
    origin.transport.full = True
    with pytest.raises(Disconnected):
        await getattr(message, name)()
    assert origin.done == [message]


def test_a_dropped_message_is_not_answered() -> None:
    message, origin = made()
    message.drop()
    message.drop()
    assert (origin.transport.sent, origin.done) == ([], [message])
