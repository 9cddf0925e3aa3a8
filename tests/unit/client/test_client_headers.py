from __future__ import annotations

import pytest

from memphis_worker.client.headers import encode_headers, is_server_header, parse_headers, status_of
from memphis_worker.errors import InvalidOption


def test_headers_are_written_in_their_order() -> None:
    assert encode_headers([("a", "1"), ("B", "é")]) == b"NATS/1.0\r\na: 1\r\nB: \xc3\xa9\r\n\r\n"


def test_no_headers_are_no_block() -> None:
    assert encode_headers([]) == b""


def test_what_is_written_is_read_again() -> None:
    pairs = [("producedBy", "p"), ("x", "a: b")]
    assert parse_headers(encode_headers(pairs)) == dict(pairs)


@pytest.mark.parametrize("pair", [("a b", "x"), ("", "x"), ("a:", "x"), ("a", "x\r\ny"), ("a", "x\n")])
def test_a_header_that_would_break_the_block_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidOption):
        encode_headers([pair])


def test_a_value_that_is_no_text_is_refused_by_its_type() -> None:
    with pytest.raises(InvalidOption, match="is a int"):
        encode_headers([("a", 1)])  # type: ignore[list-item]


def test_a_status_of_the_server_is_told_from_headers_of_a_user() -> None:
    assert status_of(b"NATS/1.0 409 Consumer Deleted\r\n\r\n") == (409, "Consumer Deleted")
    assert status_of(b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\n\r\n") == (100, "Idle Heartbeat")
    assert status_of(b"NATS/1.0 503\r\n\r\n") == (503, "")
    assert status_of(b"NATS/1.0\r\nStatus: 409\r\n\r\n") == (0, "")
    assert status_of(b"") == (0, "")


def test_instructions_for_the_server_are_known_in_any_case() -> None:
    assert is_server_header("nats-rollup")
    assert not is_server_header("msg-id")
