"""The HTTP management API of a classic broker: one call, its answer, and the broker's refusals as our errors.

Statuses and texts as in Memphis broker v0.3.0 (`server/`, `handlers/`), seen on a real one: 200 is the only success,
666 is a refusal meant for users, 400 names the field, 500 has no reason.
"""

from __future__ import annotations

import json

import httpx

from memphis_worker.client.control.session import Session
from memphis_worker.errors import (
    AlreadyExists,
    AuthenticationFailed,
    BrokerRefused,
    Disconnected,
    MemphisWorkerError,
    Missing,
    NotReachable,
    RequestTimeout,
)
from memphis_worker.options import ConnectOptions

__all__ = ["Inactive", "Management", "ServerError", "refusal"]


class ServerError(BrokerRefused):
    """Status 500: the broker gives no reason."""


class Inactive(BrokerRefused):
    """The broker no longer counts our session as active; it must sign in again."""


def refusal(status: int, body: bytes, what: str) -> MemphisWorkerError:
    """The error for an answer other than 200, with the broker's own words."""
    words = _words(body)
    lowered = words.lower()
    if status == 401:
        return AuthenticationFailed(f"{what}: the broker does not accept our access token ({words})")
    if status == 404:
        return BrokerRefused(f"{what}: no such path at the broker; check management_port (default 5555)")
    if 500 < status < 600 or (status == 500 and body.lstrip().startswith(b"<")):
        # Only 500 is the broker's own. Its words are JSON, or none when its handler crashed; a page is a proxy's.
        return NotReachable(f"{what}: a proxy answers for the broker with status {status}; is the broker up?")
    if status == 500:
        return ServerError(f"{what}: the broker failed: {words or 'no reason given'}")
    if lowered.startswith("connection "):
        return Inactive(f"{what}: {words}")
    if "already exist" in lowered or "has to be unique" in lowered:
        return AlreadyExists(f"{what}: {words}")
    if "not exist" in lowered or "was not found" in lowered:
        return Missing(f"{what}: {words}")
    return BrokerRefused(f"{what}: the broker refused it: {words or f'status {status}'}")


def _words(body: bytes) -> str:
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:200].decode("utf-8", "replace").strip()
    if isinstance(message, list):  # The validator's: each field with the rule that it breaks.
        return ", ".join(f"field {item.get('field')} breaks the rule {item.get('reason')}" for item in message)
    return str(message).strip()


class Management:
    """Calls with the session's access token; a token that has run out is renewed once."""

    def __init__(self, options: ConnectOptions, session: Session) -> None:
        self._session = session
        self._where = f"{options.host}:{options.management_port} (management_port)"
        self._timeout_s = options.timeout_ms / 1000
        host = f"[{options.host}]" if ":" in options.host else options.host
        # No proxy from the environment, and no kept connection that the broker may close under the next call.
        self._http = httpx.AsyncClient(
            base_url=f"http://{host}:{options.management_port}",
            timeout=self._timeout_s,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    async def read(
        self, path: str, what: str, query: dict[str, str] | None = None, *, timeout_s: float | None = None
    ) -> object:
        """GET. Raises Missing, BrokerRefused, NotReachable, RequestTimeout, Disconnected, ConnectionClosed."""
        request = self._http.build_request("GET", path, params=query, timeout=timeout_s or self._timeout_s)
        return await self._call(request, what)

    async def post(self, path: str, what: str, body: dict[str, object]) -> dict[str, object]:
        """POST. Raises AlreadyExists besides what `read` raises."""
        answer = await self._call(self._http.build_request("POST", path, json=body), what)
        if not isinstance(answer, dict):
            raise BrokerRefused(f"{what}: the broker's answer is not a JSON object")
        return answer

    async def delete(self, path: str, what: str, body: dict[str, object]) -> None:
        """DELETE. Raises as `read`."""
        await self._call(self._http.build_request("DELETE", path, json=body), what)

    async def close(self) -> None:
        await self._http.aclose()

    async def _call(self, request: httpx.Request, what: str) -> object:
        await self._session.ready()
        token = self._session.token
        answer = await self._send(request, what, token)
        if answer.status_code == 401:
            answer = await self._send(request, what, await self._session.fresh_token(token))
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.content, what)
        try:
            return json.loads(answer.content)
        except (ValueError, RecursionError) as exc:
            raise BrokerRefused(f"{what}: the answer from {self._where} is not JSON") from exc

    async def _send(self, request: httpx.Request, what: str, token: str) -> httpx.Response:
        request.headers["Authorization"] = f"Bearer {token}"
        try:
            return await self._http.send(request)
        except httpx.ConnectError as exc:
            raise NotReachable(f"{what}: nobody answers at {self._where}") from exc
        except httpx.ConnectTimeout as exc:
            raise NotReachable(f"{what}: {self._where} does not accept connections") from exc
        except httpx.TimeoutException as exc:
            raise RequestTimeout(
                f"{what}: no answer from {self._where} in time (timeout_ms={self._timeout_s * 1000:g}); "
                "it may have been done"
            ) from exc
        except httpx.TransportError as exc:
            raise Disconnected(f"{what}: the connection to {self._where} broke; it may have been done") from exc
