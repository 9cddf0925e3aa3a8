from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry, Counter

from memphis_worker.errors import InvalidOption, PortTaken
from memphis_worker.observability import http_server
from memphis_worker.observability.http_server import HttpServer, Page, Request, json_page, metrics_page


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def server(gate: threading.Event) -> Iterator[HttpServer]:
    registry = CollectorRegistry()
    Counter("seen", "Seen.", registry=registry).inc()
    Counter("other", "Other.", registry=registry).inc()

    def slow(request: Request) -> Page:
        gate.wait(5)
        return Page(200, "text/plain", b"slow")

    def broken(request: Request) -> Page:
        raise ValueError("a secret")

    pages = {
        "/healthz": json_page(lambda: (503, {"status": "unavailable", "checks": {}})),
        "/metrics": metrics_page(registry),
        "/slow": slow,
        "/broken": broken,
    }
    with HttpServer("127.0.0.1:0", pages) as server:
        yield server
        gate.set()


def ask(server: HttpServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_a_page_has_its_status_and_is_never_stored(server: HttpServer) -> None:
    status, headers, body = ask(server, "/healthz")
    assert (status, json.loads(body)) == (503, {"status": "unavailable", "checks": {}})
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"].startswith("application/json")
    assert json.loads(ask(server, "/healthz?verbose=0")[2]) == {"status": "unavailable"}


def test_head_has_no_body_and_other_methods_and_paths_are_refused(server: HttpServer) -> None:
    status, headers, body = ask(server, "/healthz", "HEAD")
    assert (status, body) == (503, b"")
    assert int(headers["Content-Length"]) > 10
    assert ask(server, "/healthz", "POST")[0] == 405
    assert ask(server, "/nothing")[0] == 404
    assert ask(server, "/../etc/passwd")[0] == 404


def test_metrics_speak_what_the_scraper_asks_for(server: HttpServer) -> None:
    _, headers, body = ask(server, "/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    assert b"seen_total 1.0" in body
    _, headers, body = ask(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    _, headers, body = ask(server, "/metrics", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert b"seen_total 1.0" in gzip.decompress(body)
    body = ask(server, "/metrics?name[]=seen_total")[2]
    assert b"seen_total" in body
    assert b"other_total" not in body


def test_a_broken_page_says_nothing_of_its_reason(server: HttpServer) -> None:
    status, _, body = ask(server, "/broken")
    assert status == 500
    assert b"secret" not in body


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", b"431"), (b"nonsense\r\n\r\n", b"400")],
)
def test_what_is_no_small_request_is_refused(server: HttpServer, sent: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(sent)
        assert client.recv(100).startswith(b"HTTP/1.1 " + status)


def test_a_silent_client_is_hung_up_on(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_S", 0.05)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"GET /healthz HT")
        assert client.recv(100) == b""


def test_there_is_room_for_32_and_again_when_they_are_gone(server: HttpServer, gate: threading.Event) -> None:
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))

        clients = [connect() for _ in range(32)]
        for client in clients:
            client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        assert connect().recv(100) == b""
        gate.set()
        for client in clients:
            assert stack.enter_context(client.makefile("rb")).read().endswith(b"\r\n\r\nslow")
    assert ask(server, "/metrics")[0] == 200


@pytest.mark.parametrize("address", ["9090", ":9090", "host:", "host:http", "host:70000", ""])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(InvalidOption, match="HOST:PORT"):
        HttpServer(address, {})


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port} is taken.*--http"):
            HttpServer(f"127.0.0.1:{port}", {})


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"cannot listen on 192\.0\.2\.1:0"):
        HttpServer("192.0.2.1:0", {})
