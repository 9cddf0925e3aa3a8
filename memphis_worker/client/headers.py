"""Header blocks: `NATS/1.0\\r\\nname: value\\r\\n\\r\\n`, read on demand and written with care."""

from __future__ import annotations

import re
from collections.abc import Iterable

from memphis_worker.errors import InvalidOption

__all__ = ["encode_headers", "is_server_header", "parse_headers", "status_of"]

_FIRST_LINE = b"NATS/1.0"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def is_server_header(name: str) -> bool:
    """Whether the server reads it as an instruction: one of them can wipe a stream, so copies never carry any."""
    return name[:5].lower() == "nats-"


def encode_headers(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The raw block, or `b""` for no pairs.

    Raises InvalidOption for a name that is no token, a value that is no text, or one with a line break
    (nats-py would turn it into a space, silently).
    """
    lines = [_FIRST_LINE]
    for name, value in pairs:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidOption(f"header name {name!r} is not allowed; use letters, digits and - . _")
        if not isinstance(value, str):
            raise InvalidOption(f"the value of header {name!r} is a {type(value).__name__}; it must be a str")
        if "\r" in value or "\n" in value:
            raise InvalidOption(f"the value of header {name!r} has a line break; encode it")
        lines.append(f"{name}: {value}".encode())
    if len(lines) == 1:
        return b""
    return b"\r\n".join(lines) + b"\r\n\r\n"


def parse_headers(raw: bytes) -> dict[str, str]:
    """Names and values as they came; of a name that comes twice the last counts. Bad UTF-8 becomes U+FFFD."""
    found: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.decode("utf-8", "replace").strip()] = value.decode("utf-8", "replace").strip()
    return found


def status_of(raw: bytes) -> tuple[int, str]:
    """Status code and text of a frame from the server itself, `(0, "")` for a message of a user."""
    if raw[8:9] != b" ":
        return 0, ""
    line = raw[9 : raw.find(b"\r\n")]
    code, _, text = line.partition(b" ")
    return (int(code) if code.isdigit() else 0), text.decode("utf-8", "replace").strip()
