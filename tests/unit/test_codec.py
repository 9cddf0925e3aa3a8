from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest

from memphis_worker.codec import decoder_for, encode
from memphis_worker.errors import DecodeError, InvalidHandler, InvalidOption


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Line:
    sku: str
    count: int = 1


@dataclass
class Order:
    id: int
    lines: list[Line]
    note: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    made: bool = field(default=True, init=False)


@dataclass
class Node:
    name: str
    below: list[Node] = field(default_factory=list)


@dataclass
class Positive:
    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(f"{self.value} is negative")


def decode(annotation: object, body: bytes) -> object:
    decoder = decoder_for(annotation)
    assert decoder is not None
    return decoder(body)


def test_bytes_need_no_decoder() -> None:
    assert decoder_for(bytes) is None


@pytest.mark.parametrize(
    ("annotation", "body", "expected"),
    [
        (str, "é\n".encode(), "é\n"),
        (str, b"", ""),
        (dict, b'{"a": 1}', {"a": 1}),
        (list, b"[1, null]", [1, None]),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (list[str], b'["a"]', ["a"]),
        (int, b"7", 7),
        (float, b"7", 7.0),
        (float, b"7.5", 7.5),
        (bool, b"true", True),
        (None, b"null", None),
        (Any, b'[{"x": 1}]', [{"x": 1}]),
        (object, b"3", 3),
        (int | None, b"null", None),
        (int | str, b'"x"', "x"),
        (Literal["a", 2], b"2", 2),
        (Colour, b'"red"', Colour.RED),
        (datetime, b'"2024-02-03T04:05:06+00:00"', datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (date, b'"2024-02-03"', date(2024, 2, 3)),
        (UUID, b'"12345678-1234-5678-1234-567812345678"', UUID("12345678-1234-5678-1234-567812345678")),
        (Decimal, b'"1.10"', Decimal("1.10")),
        (Order, b'{"id": 1, "lines": [{"sku": "a"}], "more": 2}', Order(1, [Line("a", 1)])),
        (list[Order], b'[{"id": 1, "lines": [], "note": "x"}]', [Order(1, [], "x")]),
        (Node, b'{"name": "a", "below": [{"name": "b"}]}', Node("a", [Node("b")])),
    ],
)
def test_a_body_becomes_what_its_annotation_says(annotation: object, body: bytes, expected: object) -> None:
    assert decode(annotation, body) == expected
    assert type(decode(annotation, body)) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "body", "words"),
    [
        (str, b"\xff", "the body is not UTF-8 (byte 0)"),
        (dict, b"{", "the body is not JSON (JSONDecodeError)"),
        (dict, b"", "the body is not JSON"),
        (dict, b"\xff\xff", "the body is not JSON (UnicodeDecodeError)"),
        (dict, b"[" * 100_000, "the body is not JSON (RecursionError)"),
        (dict, b"[]", "the body must be an object, not a list"),
        (list, b"{}", "the body must be a list, not an object"),
        (list[int], b'[1, "secret"]', "the body[1] must be a whole number, not text"),
        (int, b"1.0", "the body must be a whole number, not a number"),
        (int, b"true", "the body must be a whole number, not true or false"),
        (float, b"true", "the body must be a number, not true or false"),
        (float, b'"1"', "the body must be a number, not text"),
        (float, b"1" + b"0" * 400, "the body is a number beyond float"),
        (bool, b"1", "the body must be true or false, not a number"),
        (str | None, b"1", "the body is not UTF-8"),
        (Literal[1], b"true", "the body must be one of 1, not true or false"),
        (Literal["a"], b'"secret"', "the body must be one of 'a', not text"),
        (Literal["a"], b'["secret"]', "the body must be one of 'a', not a list"),
        (Colour, b'"secret"', "the body is not a Colour"),
        (Colour, b'{"secret": 1}', "the body is not a Colour"),
        (datetime, b'"secret"', "the body is not a datetime"),
        (datetime, b"5", "the body must be text that holds a datetime, not a number"),
        (Decimal, b'"secret"', "the body is not a Decimal"),
        (Order, b"[]", "the body must be an object that makes a Order, not a list"),
        (Order, b'{"lines": []}', "the body has no 'id', which Order needs"),
        (Order, b'{"id": 1, "lines": [{"sku": 5}]}', "the body.lines[0].sku must be text, not a number"),
        (Order, b'{"id": null, "lines": []}', "the body.id must be a whole number, not null"),
        (Positive, b'{"value": -5}', "the body was refused by Positive (ValueError)"),
        (dict[str, int], b'{"secret": "x"}', "a value of the body must be a whole number, not text"),
    ],
)
def test_a_fault_names_the_place_and_never_the_value(annotation: object, body: bytes, words: str) -> None:
    if annotation == str | None:
        words = "the body must be text, not a number"
    with pytest.raises(DecodeError) as caught:
        decode(annotation, body)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_body_nested_deeper_than_the_stack_is_undecodable() -> None:
    depth = 330
    body = b'{"name": "x", "below": [' * depth + b"]}" * depth
    json.loads(body)
    with pytest.raises(DecodeError, match="nested too deeply"):
        decode(Node, body)


@pytest.mark.parametrize(
    "annotation", [set, tuple[int, ...], bytes | None, dict[int, str], list[bytes], complex, "Order", type]
)
def test_an_annotation_that_no_body_has_is_refused(annotation: object) -> None:
    with pytest.raises(InvalidHandler, match="the body: "):
        decoder_for(annotation)


def test_a_field_that_no_body_has_is_refused_with_its_name() -> None:
    with pytest.raises(InvalidHandler, match=r"Bad\.data"):
        decoder_for(Bad)


@dataclass
class Bad:
    data: bytes


@dataclass
class Unresolved:
    data: Nowhere  # type: ignore[name-defined]  # noqa: F821


def test_a_field_whose_annotation_is_unknown_is_refused() -> None:
    with pytest.raises(InvalidHandler, match="Unresolved: its annotations cannot be resolved"):
        decoder_for(Unresolved)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
        ("é", "é".encode()),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        ({"é": 1}, '{"é":1}'.encode()),
        (Order(1, [Line("a")]), b'{"id":1,"lines":[{"sku":"a","count":1}],"note":null,"tags":{},"made":true}'),
        (Colour.RED, b'"red"'),
        (date(2024, 2, 3), b'"2024-02-03"'),
        (Decimal("1.10"), b'"1.10"'),
        (None, b"null"),
        (5, b"5"),
    ],
)
def test_payloads_become_bytes(payload: object, expected: bytes) -> None:
    assert encode(payload) == expected


@pytest.mark.parametrize("payload", [{1, 2}, object(), {"a": {1}}, {(1, 2): 3}, "\ud800", {"a": "\ud800"}, Order])
def test_a_payload_that_cannot_be_sent_is_refused_with_its_type(payload: object) -> None:
    with pytest.raises(InvalidOption, match=f"a payload of type {type(payload).__name__} cannot be sent"):
        encode(payload)


def test_a_payload_that_holds_itself_is_refused() -> None:
    loop: dict[str, object] = {}
    loop["me"] = loop
    with pytest.raises(InvalidOption, match="cannot be sent"):
        encode(loop)


def test_what_is_encoded_is_decoded_again() -> None:
    order = Order(1, [Line("a", 2)], "x", {"k": "v"})
    assert decode(Order, encode(order)) == order
