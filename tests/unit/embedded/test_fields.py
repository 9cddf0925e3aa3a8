"""Parameters: read from a body or a query and checked as Go does."""

from __future__ import annotations

import pytest

from memphis_worker.embedded import gojson
from memphis_worker.embedded.fields import Field, from_json, from_query, problems, required

FIELDS = (
    *required("name", most=3),
    Field(name="count", kind="int", least=0),
    Field(name="on", kind="bool"),
    Field(name="ids", kind="ids", required=True),
)


def test_keys_in_any_case_the_last_wins_null_is_zero() -> None:
    values = from_json(FIELDS, b'{"NAME": "a", "name": "b", "count": null, "On": true, "other": 1} trailing')
    assert values == {"name": "b", "count": 0, "on": True, "ids": None}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'""',
        b'\xef\xbb\xbf{"name": "a"}',
        b'{"name": 1}',
        b'{"count": "10"}',
        b'{"count": 1.5}',
        b'{"count": 1e3}',
        b'{"count": true}',
        b'{"count": 9223372036854775808}',
        b'{"on": "true"}',
        b'{"ids": "x"}',
        b'{"ids": ["xyz"]}',
        b'{"count": NaN}',
        b"[" * 100_000,
    ],
)
def test_what_go_does_not_decode_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is never shown
        from_json(FIELDS, body)


def test_all_failing_fields_are_named_in_their_order() -> None:
    values = from_json(FIELDS, b'{"name": "abcd", "count": -1}')
    assert problems(FIELDS, values) == [
        {"field": "name", "reason": "max=3"},
        {"field": "count", "reason": "min=0"},
        {"field": "ids", "reason": "required"},
    ]


def test_empty_list_is_there() -> None:
    assert problems(FIELDS, from_json(FIELDS, '{"name": "\u00e9\u00e9\u00e9", "ids": []}'.encode())) == []


def test_query_takes_the_first_and_ignores_the_rest() -> None:
    values, complete = from_query(FIELDS, "%7B%7D&name=a&name=b&count=7&on=1")
    assert (values, complete) == ({"name": "a", "count": 7, "on": True, "ids": None}, True)


def test_query_parameter_that_cannot_be_read_empties_itself_and_all_that_follow() -> None:
    values, complete = from_query(FIELDS, "name=a&count=x&on=true")
    assert (values, complete) == ({"name": "a", "count": 0, "on": False, "ids": None}, False)


def test_html_characters_are_escaped_and_invalid_bytes_written_out() -> None:
    assert gojson.compact({"a": "<&>\u2028\u00e9"}) == '{"a":"\\u003c\\u0026\\u003e\\u2028\u00e9"}'.encode()
    assert gojson.compact(gojson.raw_text(b"\xff\xe2\x82A")) == b'"\\ufffd\\ufffd\\ufffdA"'
    assert gojson.text(b"\xff\xe2\x82A") == "\ufffd\ufffd\ufffdA"


@pytest.mark.parametrize(
    ("at_ns", "written"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_795_514_488_789_000_001, "2026-11-24T10:01:28.789000001Z"),
    ],
)
def test_dates_have_no_trailing_zeros_and_read_back(at_ns: int, written: str) -> None:
    assert gojson.date_ns(at_ns) == written
    assert gojson.parse_date(written) == at_ns


def test_read_dates_have_milliseconds() -> None:
    assert gojson.date_ms(1_795_514_488_940_999_999) == "2026-11-24T10:01:28.94Z"
