"""The broker's own words, as recorded from a real Memphis 0.3.0, and what they become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memphis_worker.client.control.grant import read_grant
from memphis_worker.client.control.management import Inactive, ServerError, refusal
from memphis_worker.errors import (
    AlreadyExists,
    AuthenticationFailed,
    BrokerRefused,
    MemphisWorkerError,
    Missing,
    NotReachable,
)

WIRE = Path(__file__).parents[2] / "wire" / "classic-client"


def recorded(file: str) -> dict[str, dict[str, object]]:
    lines = (WIRE / file).read_text().splitlines()
    return {str(line["scenario"]): line for line in map(json.loads, lines)}


TCP = recorded("tcp.jsonl")
HTTP = recorded("http.jsonl")


def first_reply(scenario: str) -> bytes:
    receive = TCP[scenario]["receive"]
    assert isinstance(receive, list)
    return str(receive[0]).encode()


def test_a_sign_in_gives_an_id_a_token_and_its_times() -> None:
    grant = read_grant(first_reply("connect: root, connection_id null"), "host:6666")
    assert grant.connection_id == "6b05612aa58a9b70e06d1907"
    assert grant.access_token.startswith("eyJ")
    assert (grant.token_life_s, grant.ping_interval_s) == (900.0, 60.0)
    assert grant.access_token not in repr(grant)


@pytest.mark.parametrize(
    ("scenario", "error", "words"),
    [
        ("connect: wrong token", AuthenticationFailed, "authorization violation"),
        ("connect: unknown user", AuthenticationFailed, "User is not exist"),
        ("connect: management user", AuthenticationFailed, "Root/Application and not Management"),
        ("connect: connection_id 23 hex characters", BrokerRefused, "Memphis protocol error"),
        ("connect: NATS server is down", NotReachable, "no servers available"),
        ("connect: database is down", NotReachable, "server selection"),
    ],
)
def test_a_refused_sign_in_keeps_the_words_of_the_broker(
    scenario: str, error: type[MemphisWorkerError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        read_grant(first_reply(scenario), "host:6666 (tcp_port)")
    assert type(caught.value) is error
    assert "host:6666 (tcp_port)" in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (b'INFO {"server_id":"X"} \r\n', BrokerRefused, "native Memphis broker"),
        (b"HTTP/1.1 400 Bad Request\r\n", BrokerRefused, "check tcp_port"),
        (b"", NotReachable, "without an answer"),
        (b'{"connection_id":"x"}', BrokerRefused, "no Memphis reply"),
        (b"[]", BrokerRefused, "no Memphis reply"),
    ],
)
def test_somebody_else_on_the_port_is_told_apart(reply: bytes, error: type[MemphisWorkerError], words: str) -> None:
    with pytest.raises(error, match=words):
        read_grant(reply, "host:6666")


@pytest.mark.parametrize(
    ("scenario", "error", "words"),
    [
        ("auth: no header", AuthenticationFailed, "Unauthorized"),
        ("status: POST", BrokerRefused, "management_port"),
        ("createFactory: duplicate", AlreadyExists, "already exist"),
        ("createStation: duplicate", AlreadyExists, "already exist"),
        ("createProducer: duplicate active name, same connection", AlreadyExists, "unique in a station level"),
        ("createConsumer: duplicate active name", AlreadyExists, "unique in a station level"),
        ("getStation: missing", Missing, "Station does not exist"),
        ("destroyConsumer: again", Missing, "was not found"),
        ("createProducer: connection id unknown", Inactive, "Connection id was not found"),
        ("createProducer: connection inactive", Inactive, "Connection is not active"),
        ("createStation: bad retention type", BrokerRefused, "message_age_sec/messages/bytes"),
        ("createStation: replicas 3 on a single NATS server", BrokerRefused, "replicas > 1 not supported"),
        ("createStation: a stream of that name exists in NATS with another config", BrokerRefused, "already in use"),
        ("createStation: dedup window negative", BrokerRefused, "field dedup_window_in_ms breaks the rule min=0"),
        ("createStation: empty object", BrokerRefused, "field name breaks the rule required, field factory_name"),
        ("login: no body", BrokerRefused, "JSON format"),
        ("sandbox/login (SANDBOX_ENV unset)", ServerError, "Server error"),
        ("auth: right signature, claims missing", ServerError, "no reason given"),
    ],
)
def test_a_refused_call_keeps_the_words_of_the_broker(
    scenario: str, error: type[MemphisWorkerError], words: str
) -> None:
    line = HTTP[scenario]
    status = int(str(line["status_line"]).split()[1])
    found = refusal(status, str(line["response"]).encode(), "create station 's'")
    assert type(found) is error
    assert words in str(found)
    assert str(found).startswith("create station 's': ")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"<html><h1>Internal Server Error</h1></html>"),
        (502, b"<html>\r\n<h1>502 Bad Gateway</h1>\r\n</html>"),
        (503, b"no healthy upstream"),
        (503, b""),
        (504, b'{"message":"upstream request timeout"}'),
    ],
)
def test_a_proxy_in_front_of_a_broker_that_is_down_is_no_refusal(status: int, body: bytes) -> None:
    found = refusal(status, body, "create station 's'")
    assert type(found) is NotReachable
    assert str(found) == f"create station 's': a proxy answers for the broker with status {status}; is the broker up?"
