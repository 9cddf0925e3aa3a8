"""The HTTP server of metrics and health: in threads, so that it answers while the event loop is blocked.

GET and HEAD of fixed paths, one request for a connection. It is for probes and scrapers: a request has 8 KiB and
5 s, and there are at most 32 at once.
"""

from __future__ import annotations

import errno
import gzip
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from memphis_worker.errors import InvalidOption, PortTaken
from memphis_worker.failure import failure
from memphis_worker.log import get_logger

__all__ = ["HttpServer", "Page", "Request", "json_page", "metrics_page"]

log = get_logger(__name__)

REQUEST_MAX = 8192
REQUEST_S = 5.0
CONNECTIONS_MAX = 32
POLL_S = 0.25


class Request(NamedTuple):
    """What a page may look at. Header names are in lower case."""

    query: dict[str, list[str]]
    headers: dict[str, str]


class Page(NamedTuple):
    """What a page gives."""

    status: int
    content_type: str
    body: bytes
    encoding: str = ""


class HttpServer:
    """Listens from the constructor on, and answers between `start()` and `close()`; both also by `with`.

    address: `HOST:PORT`; port 0 takes a free one. Raises PortTaken, InvalidOption.
    """

    def __init__(self, address: str, pages: Mapping[str, Callable[[Request], Page]]) -> None:
        self._server = _Server(*_split(address), pages)
        host, port = self._server.server_address[:2]
        self.address = f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"
        self.port = int(port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="http", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        self._thread.start()
        log.info("http.listening", address=self.address, port=self.port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def json_page(answer: Callable[[], tuple[int, dict[str, object]]]) -> Callable[[Request], Page]:
    """A page of JSON; with `?verbose=0` only its status."""

    def page(request: Request) -> Page:
        status, body = answer()
        if request.query.get("verbose") == ["0"]:
            body = {"status": body.get("status", "ok")}
        return Page(status, "application/json; charset=utf-8", json.dumps(body, default=str).encode() + b"\n")

    return page


def metrics_page(registry: CollectorRegistry) -> Callable[[Request], Page]:
    """The exposition that the scraper asks for, gzipped when it takes that; `?name[]=` chooses families."""

    def page(request: Request) -> Page:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        chosen = request.query.get("name[]")
        source = registry.restricted_registry(chosen) if chosen else registry
        body = encode(source)
        if "gzip" in request.headers.get("accept-encoding", "").lower():
            return Page(200, content_type, gzip.compress(body, compresslevel=1), "gzip")
        return Page(200, content_type, body)

    return page


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidOption(f"--http is {address!r}; it must be HOST:PORT, as in 127.0.0.1:9090")
    return host.strip("[]"), int(port)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[Request], Page]]) -> None:
        self.pages = pages
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Connection)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise PortTaken(
                    f"{host}:{port} is taken, so metrics and health cannot be served there; "
                    "choose another port with --http HOST:PORT, or --no-http"
                ) from exc
            raise InvalidOption(f"--http: cannot listen on {host}:{port}: {exc.strerror or exc}") from exc

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("http.connection_failed", exc_info=True)


class _Connection(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        head = self._read()
        if head is None:
            self._send(Page(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "text/plain", b"too large\n"))
            return
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            if head:
                self._send(Page(HTTPStatus.BAD_REQUEST, "text/plain", b"bad request\n"))
            return
        method, target, _ = parts
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        url = urlsplit(target)
        self._send(self._page(method, url.path, Request(parse_qs(url.query), headers)), body=method != "HEAD")

    def _page(self, method: str, path: str, request: Request) -> Page:
        page = self.server.pages.get(path)
        if page is None:
            known = " ".join(sorted(self.server.pages))
            return Page(HTTPStatus.NOT_FOUND, "text/plain", f"not found; there are: {known}\n".encode())
        if method not in ("GET", "HEAD"):
            return Page(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"only GET and HEAD\n")
        try:
            return page(request)
        except Exception as exc:  # noqa: BLE001
            log.error("http.page_failed", path=path, **failure(exc))
            return Page(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"failed; see the log\n")

    def _read(self) -> bytes | None:
        """Everything before the empty line; empty when the client said nothing in time, `None`: too much."""
        deadline = time.monotonic() + REQUEST_S
        head = b""
        while b"\r\n\r\n" not in head:
            if len(head) > REQUEST_MAX:
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                return b""
            self.request.settimeout(left)
            try:
                data = self.request.recv(REQUEST_MAX)
            except OSError:
                return b""
            if not data:
                return b""
            head += data
        head = head.partition(b"\r\n\r\n")[0]
        return head if len(head) <= REQUEST_MAX else None

    def _send(self, page: Page, *, body: bool = True) -> None:
        status = HTTPStatus(page.status)
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {page.content_type}",
            f"Content-Length: {len(page.body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if page.encoding:
            lines += [f"Content-Encoding: {page.encoding}", "Vary: Accept-Encoding"]
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        self.request.settimeout(REQUEST_S)
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        self.request.sendall(head + page.body if body else head)
