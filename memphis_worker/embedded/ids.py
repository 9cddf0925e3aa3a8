"""Ids of records, shaped like MongoDB's ObjectID: 24 lower-case hexadecimal digits."""

from __future__ import annotations

import itertools
import os
import re
import time

ZERO = "0" * 24
_HEX = re.compile("[0-9a-fA-F]{24}")
_PROCESS = os.urandom(5).hex()
_COUNTER = itertools.count(int.from_bytes(os.urandom(3), "big"))


def new_id() -> str:
    """Seconds since 1970, five random bytes of this process, a counter."""
    return f"{int(time.time()):08x}{_PROCESS}{next(_COUNTER) & 0xFFFFFF:06x}"


def parse_id(written: str) -> str | None:
    """The id in lower case, or None when it is not one."""
    return written.lower() if _HEX.fullmatch(written) else None


def decode_id(value: object) -> str:
    """An id in a JSON message: null, `""`, 24 digits or `{"$oid": ...}`. ValueError for anything else."""
    if isinstance(value, dict) and "$oid" in value:
        value = value["$oid"]
    if value is None or value == "":
        return ZERO
    found = parse_id(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("not an id")
    return found
