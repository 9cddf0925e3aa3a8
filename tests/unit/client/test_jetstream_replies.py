"""Answers of the JetStream API that are none: what may pass, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memphis_worker.client.jetstream import consumer_info, publish_confirmed, stream_info
from memphis_worker.client.transport import Frame
from memphis_worker.errors import (
    BrokerRefused,
    MemphisWorkerError,
    Missing,
    NotReachable,
    PayloadTooLarge,
    ProduceFailed,
)

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


class Wire:
    """A transport of one verb: every request gets this answer."""

    def __init__(self, payload: bytes = b"", headers: bytes = b"") -> None:
        self._frame = Frame(b"_INBOX.1", b"", headers, payload)

    async def request(self, *arguments: Any, **options: Any) -> Frame:
        return self._frame


def wire(payload: object = b"", headers: bytes = b"") -> Any:
    return Wire(payload if isinstance(payload, bytes) else json.dumps(payload).encode(), headers)


async def test_a_server_whose_jetstream_is_not_up_is_not_reachable_yet() -> None:
    with pytest.raises(NotReachable, match=r"stream 'S': JetStream does not answer .* is it enabled\?"):
        await stream_info(wire(headers=NO_RESPONDERS), "S")


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (
            {"code": 503, "err_code": 10008, "description": "system temporarily unavailable"},
            NotReachable,
            "temporarily",
        ),
        ({"code": 404, "err_code": 10014, "description": "consumer not found"}, Missing, "consumer not found"),
        ({"code": 500, "err_code": 1, "description": "odd"}, BrokerRefused, "odd"),
        ({}, BrokerRefused, "no reason given"),
        ("boom", BrokerRefused, "boom"),
    ],
)
async def test_an_error_of_the_api_keeps_its_words(error: object, raised: type[MemphisWorkerError], words: str) -> None:
    with pytest.raises(raised, match=words) as caught:
        await consumer_info(wire({"error": error}), "S", "g")
    assert type(caught.value) is raised


@pytest.mark.parametrize(
    ("reply", "raised", "words"),
    [
        ({"error": {"err_code": 10054, "description": "message size exceeds"}}, PayloadTooLarge, "exceeds"),
        ({"error": {"err_code": 10077, "description": "maximum messages exceeded"}}, ProduceFailed, "maximum messages"),
        ({"error": "boom"}, ProduceFailed, "boom"),
        ({"error": 7}, ProduceFailed, "7"),
        ({"seq": 7}, ProduceFailed, "no confirmation"),
        ([], ProduceFailed, "no confirmation"),
        (b"no json", ProduceFailed, "no confirmation"),
    ],
)
async def test_a_publish_without_a_confirmation_failed(
    reply: object, raised: type[MemphisWorkerError], words: str
) -> None:
    with pytest.raises(raised, match=words) as caught:
        await publish_confirmed(wire(reply), "s.final", b"x", timeout_s=1)
    assert type(caught.value) is raised
