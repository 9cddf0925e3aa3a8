"""JSON as Go's encoding/json reads and writes it, and Go's dates: what the bytes of Memphis 0.3.0 depend on."""

from __future__ import annotations

import codecs
import json
import re
from datetime import UTC, datetime
from typing import NoReturn

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_TO_ESCAPE = re.compile("[<>&\u2028\u2029]")
_WHITESPACE = re.compile(r"[ \t\r\n]*")


def _each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd", error.start + 1


codecs.register_error("memphis_worker.each_byte", _each_byte)


def text(data: bytes) -> str:
    """UTF-8 with U+FFFD for each invalid byte (Python's own replacement takes one for a cut sequence)."""
    return data.decode("utf-8", "memphis_worker.each_byte")


def raw_text(data: bytes) -> str:
    """UTF-8 as Go keeps it in a string: invalid bytes stay, and are written as the six characters `\\ufffd`."""
    return data.decode("utf-8", "surrogateescape")


def loads_first(data: bytes) -> object:
    """The first JSON value of `data`; what follows is not looked at. ValueError when there is none."""
    source = text(data)
    start = _WHITESPACE.match(source)
    assert start is not None
    try:
        value: object = _DECODER.raw_decode(source, start.end())[0]
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def no_surrogates(value: str) -> str:
    """Half a surrogate pair, written as an escape, reads as U+FFFD in Go."""
    return _SURROGATE.sub("\ufffd", value)


def compact(value: object) -> bytes:
    """What Go's json.Marshal writes."""
    return _escape(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def indented(value: object) -> bytes:
    """What gin's IndentedJSON writes: four spaces."""
    return _escape(json.dumps(value, ensure_ascii=False, indent=4))


def _escape(written: str) -> bytes:
    escaped = _TO_ESCAPE.sub(lambda match: _ESCAPED[match.group()], written)
    return _SURROGATE.sub(r"\\ufffd", escaped).encode()


def date_ns(at_ns: int) -> str:
    """RFC 3339 in UTC with nanoseconds, trailing zeros cut: how a date looks that was not in the database yet."""
    return _date(at_ns, f"{at_ns % 1_000_000_000:09d}")


def date_ms(at_ns: int) -> str:
    """The same with milliseconds: how a date looks that was read from the database."""
    return _date(at_ns, f"{at_ns // 1_000_000 % 1000:03d}")


def _date(at_ns: int, fraction: str) -> str:
    whole = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = fraction.rstrip("0")
    return f"{whole}.{digits}Z" if digits else f"{whole}Z"


def parse_date(written: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 date in UTC, as nats-server writes them."""
    whole, _, fraction = written.removesuffix("Z").partition(".")
    seconds = int(datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or "0")
