"""Two texts are compared byte for byte, once ids, dates and tokens are replaced by their kind."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "classic"
_VOLATILE = (
    (re.compile(r"eyJ[\w-]+\.(\.\.|[\w-]+\.[\w-]+|eyJ\.\.\.)"), "<token>"),
    (re.compile(r"\b[0-9a-f]{24}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<date>"),
)
HEADERS = ("content-type", "location", "set-cookie", "vary", "transfer-encoding")
ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One exchange: `difference` is empty when the answer agrees with the recorded one."""

    file: str
    scenario: str
    difference: str


def lines(name: str) -> list[dict[str, Any]]:
    """The recorded exchanges of a file."""
    with (RECORDED / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def normal(text: str) -> str:
    """Without what differs from run to run."""
    for pattern, kind in _VOLATILE:
        text = pattern.sub(kind, text)
    return text


def learn(ids: dict[str, str], recorded: str, answer: str) -> None:
    """Notes which id of ours stands where a recorded one stood: later requests name it."""
    try:
        pairs = _pairs(json.loads(recorded), json.loads(answer))
    except ValueError:
        return
    for theirs, ours in pairs:
        if ID.fullmatch(theirs) and ID.fullmatch(ours):
            ids.setdefault(theirs, ours)


def _pairs(recorded: object, answer: object) -> Iterator[tuple[str, str]]:
    match recorded, answer:
        case str(), str():
            yield recorded, answer
        case dict(), dict():
            for key in recorded.keys() & answer.keys():
                yield from _pairs(recorded[key], answer[key])
        case list(), list():
            for theirs, ours in zip(recorded, answer, strict=False):
                yield from _pairs(theirs, ours)


def translate(ids: dict[str, str], text: str) -> str:
    """The recorded ids replaced by ours, in the case they were written."""
    for theirs, ours in ids.items():
        text = text.replace(theirs, ours).replace(theirs.upper(), ours.upper())
    return text


def config_difference(recorded: dict[str, Any], answer: dict[str, Any]) -> str:
    """What differs of an INFO reply: its error, or the configuration as far as it was recorded."""
    if "error" in recorded or "streams" in recorded:
        keys = [key for key in recorded if key in ("error", "streams", "total")]
        return differing({key: recorded[key] for key in keys}, {key: answer.get(key) for key in keys})
    config = answer.get("config", {})
    return differing(recorded["config"], {key: config.get(key) for key in recorded["config"]})


def differing(recorded: object, answer: object) -> str:
    """Empty when equal, else one line."""
    if recorded == answer:
        return ""
    if isinstance(recorded, str) and isinstance(answer, str) and "\n" in recorded:
        changed = difflib.unified_diff(recorded.splitlines(), answer.splitlines(), "recorded", "got", n=2, lineterm="")
        return "; ".join(line.strip() for line in changed)
    return f"recorded {recorded!r}, got {answer!r}"
