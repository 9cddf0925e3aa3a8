"""The control channel's framing: where a JSON value ends, and what a message may hold."""

from __future__ import annotations

import asyncio

import pytest

from memphis_worker.embedded.ids import ZERO
from memphis_worker.embedded.tcp import ControlMessage, ProtocolError, decode_message, read_message, value_end


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", None),
        (b" \r\n\t", None),
        (b'{"ping": true}', 14),
        (b'{"ping": true}{"ping": true}', 14),
        (b' {"a": {"b": [1, 2]}} ', 21),
        (b'{"ping": tr', None),
        (rb'{"a": "}\"}"}', 13),
        (b"[]", 2),
        (b"null", None),
        (b"null\n", 4),
        (b'null{"ping": true}', 4),
        (b'"x"', None),
        (b'"x" ', 3),
        (b"12", None),
        (b"12 ", 2),
    ],
)
def test_value_ends_with_its_bracket_or_with_the_byte_behind_it(data: bytes, end: int | None) -> None:
    assert value_end(data) == end


@pytest.mark.parametrize("data", [b"hello", b"}", b",", b"\xff", b'ess_token": true}'])
def test_what_begins_no_value_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        value_end(data)


def test_keys_count_in_any_case_and_unknown_ones_are_ignored() -> None:
    message = decode_message(b'{"USERNAME": "root", "Broker_Creds": "t", "x": 1, "PING": true}')
    expected = ControlMessage(
        username="root", broker_creds="t", connection_id=ZERO, resend_access_token=False, ping=True
    )
    assert message == expected


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b'"x" ',
        b'{"username": 5}',
        b'{"ping": "yes"}',
        b'{"ping": 1}',
        b'{"connection_id": 5}',
        b'{"connection_id": true}',
        b'{"connection_id": {}}',
        b'{"connection_id": "zz"}',
        b'{"username": NaN}',
        b'{"username": "a\nb"}',
    ],
)
def test_wrong_types_are_no_message(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is never shown
        decode_message(data)


@pytest.mark.parametrize("written", [b'"ABCDEF0123456789ABCDEF01"', b'{"$oid": "abcdef0123456789abcdef01"}'])
def test_connection_id_is_hex_in_any_case_or_extended_json(written: bytes) -> None:
    assert decode_message(b'{"connection_id": %s}' % written).connection_id == "abcdef0123456789abcdef01"


async def test_message_in_any_number_of_segments() -> None:
    reader = asyncio.StreamReader()
    reading = asyncio.ensure_future(read_message(reader))
    for byte in b'{"username": "root"}':
        reader.feed_data(bytes([byte]))
        await asyncio.sleep(0)
    assert (await reading).username == "root"


async def test_second_message_of_one_read_is_lost() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b'{"ping": true}{"resend_access_token": true}')
    assert (await read_message(reader)).ping
    reader.feed_data(b'{"username": "next"}')
    assert (await read_message(reader)).username == "next"


async def test_end_within_a_message_is_an_error() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b'{"username": "ro')
    reader.feed_eof()
    with pytest.raises(ProtocolError):
        await read_message(reader)
