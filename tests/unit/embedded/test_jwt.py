"""Tokens: as the real broker signs them, and what it accepts."""

from __future__ import annotations

import base64
import json
import time

import pytest

from memphis_worker.embedded import jwt
from memphis_worker.embedded.settings import Settings
from memphis_worker.embedded.state import State, User
from memphis_worker.embedded.tokens import Tokens

# Issued by a real broker 0.3.0 whose JWT_SECRET was "x" (tests/wire/classic/tcp.jsonl, first line).
RECORDED = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhbHJlYWR5X2xvZ2dlZF9pbiI6dHJ1ZSwiYXZhdGFyX2lkIjo0LCJjcmVhdGlvbl9kYXRl"
    "IjoiMjAyNi0xMS0yNFQxMDowMToyOC43ODlaIiwiZXhwIjoxNzk1NTE1NTY2LCJ1c2VyX2lkIjoiNmIwNTYwNzhhNThhOWI3MGUwNmQxODAwIiwi"
    "dXNlcl90eXBlIjoicm9vdCIsInVzZXJuYW1lIjoicm9vdCJ9.kcZ4vd7zJWz_TSODLMmYO4bHH20jQ07sMdIcG2A2fVE"
)
EXPIRES = 1795515566


def test_recorded_token_is_reproduced_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: EXPIRES - 900.0)
    state = State(None)
    state.jwt_secret = "x"
    root = User(
        id="6b056078a58a9b70e06d1800",
        created=1795514488_789_000_000,
        username="root",
        user_type="root",
        avatar_id=4,
        already_logged_in=True,
    )
    assert Tokens(state, Settings(token="memphis", root_password="memphis")).access(root) == RECORDED


def test_recorded_token_is_accepted_until_its_last_second_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: EXPIRES + 0.9)
    claims = jwt.verify(RECORDED, "x")
    assert claims is not None
    assert claims["username"] == "root"
    monkeypatch.setattr(time, "time", lambda: EXPIRES + 1.0)
    assert jwt.verify(RECORDED, "x") is None


@pytest.mark.parametrize(
    "token",
    ["", "bad", "a.b", "a.b.c.d", "e30.e30.", "bnVsbA.bnVsbA.", "\u00e9.\u00e9.\u00e9", RECORDED + "x", RECORDED[:-1]],
)
def test_malformed_token_does_not_count(token: str) -> None:
    assert jwt.verify(token, "x") is None


def test_token_of_another_secret_does_not_count() -> None:
    assert jwt.verify(jwt.sign({"username": "root"}, "y", 60), "x") is None


def test_token_without_a_signature_does_not_count() -> None:
    def packed(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    for algorithm in ("none", "None", ["HS256"], None):
        assert jwt.verify(f"{packed({'alg': algorithm})}.{packed({'username': 'root'})}.", "x") is None


def test_two_tokens_of_one_second_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.1)
    first = jwt.sign({"username": "root"}, "x", 60)
    monkeypatch.setattr(time, "time", lambda: 1000.8)
    assert jwt.sign({"username": "root"}, "x", 60) == first
