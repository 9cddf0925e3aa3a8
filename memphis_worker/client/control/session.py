"""The control channel of a classic broker: JSON over TCP, one request at a time, for as long as the session lives.

Facts from Memphis broker v0.3.0, `tcp_server/tcp_server.go`, seen on a real one: objects without a delimiter, a reply
is one write; a second request in the same read is lost, so requests are never pipelined; the listener is IPv4 only;
nothing comes unasked, so whatever arrives between two requests can only be the end of the channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import Callable
from dataclasses import replace

from memphis_worker.client.control.grant import Grant, read_grant
from memphis_worker.errors import (
    BrokerRefused,
    ConnectionClosed,
    Disconnected,
    MemphisWorkerError,
    NotReachable,
)
from memphis_worker.failure import failure
from memphis_worker.log import get_logger
from memphis_worker.options import ConnectOptions

__all__ = ["Session"]

log = get_logger(__name__)

#: Shares of what the broker allows: a ping, and a new token, well before the old one is too old.
_PING_SHARE = 0.5
_REFRESH_SHARE = 0.75
#: After this much longer than its ping interval the broker marks a silent session inactive, and no ping revives it.
_SWEEP_SLACK_S = 5.0
_LONGEST_PAUSE_S = 5.0
_REPLY_MAX = 65_536


class Session:
    """One signed-in control channel that pings, renews its token and, if the options say so, reconnects."""

    def __init__(self, options: ConnectOptions, replaced: Callable[[], None]) -> None:
        """`replaced` is called after a reconnect that came back under a new connection id."""
        self._options = options
        self._replaced = replaced
        self._timeout_s = options.timeout_ms / 1000
        self._where = f"{options.host}:{options.tcp_port} (tcp_port)"
        self._grant: Grant | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._timer: asyncio.Timeout | None = None
        self._ping_at = self._refresh_at = self._pinged_at = 0.0
        self._renewal = asyncio.Event()
        self._connected = False
        self._closed = False
        self._why = f"the session with {self._where} is not open"
        self._changed = asyncio.Event()
        self._watchers: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def connection_id(self) -> str:
        """24 hex digits; empty before the sign-in."""
        return self._grant.connection_id if self._grant else ""

    @property
    def token(self) -> str:
        """The JWT for the management API."""
        return self._grant.access_token if self._grant else ""

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback) if callback in self._watchers else None

    async def open(self) -> None:
        """Signs in, once. Raises NotReachable, AuthenticationFailed, BrokerRefused."""
        if self._closed:
            raise ConnectionClosed(self._why)
        await self._sign_in()
        self._keeper = asyncio.create_task(self._keep(), name=f"session {self._where}")

    async def ready(self) -> None:
        """Returns when the session stands. Raises ConnectionClosed, or Disconnected after the timeout."""
        await self._until(lambda: self._connected)

    async def fresh_token(self, stale: str) -> str:
        """A token other than this one. Raises Disconnected when the broker gives none in time."""
        if self.token == stale:
            self._refresh_at = 0.0
            self._wake()
            await self._until(lambda: self._connected and self.token != stale)
        return self.token

    async def renew(self) -> None:
        """Drops the channel and signs in again under the same id: a session marked inactive comes back to life."""
        stale = self._writer
        self._renewal.set()
        self._wake()
        await self._until(lambda: self._connected and self._writer is not stale)

    async def close(self) -> None:
        """Ends the session; the broker marks its members inactive. Never raises."""
        self._closed = True
        self._why = f"the session with {self._where} was closed"
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        await self._hang_up()
        self._set(connected=False)

    # ------------------------------------------------------------------ keeping

    async def _keep(self) -> None:
        while True:
            try:
                reason = await self._hold()
            except Exception as exc:  # Else the session would count as connected for ever.  # noqa: BLE001
                reason = f"{type(exc).__name__}: {exc}"[:200]
                log.error("session.failed", broker=self._where, **failure(exc))
            await self._hang_up()  # Before the next sign-in: an old socket that ends later kills the shared session.
            self._why = f"the session with {self._where} was lost: {reason}"
            self._set(connected=False)
            log.warning("session.lost", broker=self._where, reason=reason)
            known = self.connection_id
            if not await self._reconnect():
                self._closed = True
                self._set(connected=False)
                return
            log.info("session.reconnected", broker=self._where, same_id=known == self.connection_id)
            if known != self.connection_id:
                self._replaced()

    async def _hold(self) -> str:
        """Pings and refreshes until the channel is lost; why it is lost."""
        loop = asyncio.get_running_loop()
        assert self._reader is not None
        assert self._grant is not None
        self._renewal.clear()
        while True:
            if self._renewal.is_set():
                self._renewal.clear()
                return "the broker no longer counts it as active"
            if loop.time() - self._pinged_at > self._grant.ping_interval_s + _SWEEP_SLACK_S:
                return "no ping for too long, the process was suspended or blocked"
            try:
                async with asyncio.timeout_at(min(self._ping_at, self._refresh_at)) as self._timer:
                    data = await self._reader.read(_REPLY_MAX)
                return "an answer that nobody asked for" if data else "closed by the broker"
            except TimeoutError:
                pass
            except OSError as exc:
                return str(exc)
            finally:
                self._timer = None
            if self._renewal.is_set():
                continue
            try:
                await (self._refresh() if self._refresh_at <= loop.time() else self._ping())
            except (MemphisWorkerError, OSError, TimeoutError) as exc:
                return str(exc) or "no answer in time"

    async def _reconnect(self) -> bool:
        attempt = 0
        limit = self._options.max_reconnect
        while self._options.reconnect and (limit == -1 or attempt < limit):
            await asyncio.sleep(self._pause_s(attempt))
            attempt += 1
            try:
                await self._sign_in()
            except Exception as exc:  # As above: whatever it is, the next attempt may do better.  # noqa: BLE001
                words = str(exc) if isinstance(exc, MemphisWorkerError) else f"{type(exc).__name__}: {exc}"[:200]
                self._why = f"the session with {self._where} is down: {words}"
                refused = isinstance(exc, BrokerRefused) or not isinstance(exc, MemphisWorkerError)
                tell = log.error if refused else log.warning
                tell("session.reconnect_failed", broker=self._where, attempt=attempt, error=words)
            else:
                return True
        tried = f"{attempt} attempts to reconnect failed" if attempt else "reconnect is off"
        self._why = f"the session with {self._where} was lost, and {tried}; connect again"
        log.error("session.given_up", broker=self._where, attempts=attempt)
        return False

    def _pause_s(self, attempt: int) -> float:
        """With a limit of attempts the interval as it was asked for; without one it doubles, up to 5 s."""
        interval = self._options.reconnect_interval_ms / 1000
        if self._options.max_reconnect == -1:
            interval = min(interval * 2 ** min(attempt, 10), max(interval, _LONGEST_PAUSE_S))
        return interval * random.uniform(0.75, 1.25)  # noqa: S311 - a herd is spread, no secret made

    # ----------------------------------------------------------------- requests

    async def _sign_in(self) -> None:
        options, known = self._options, self.connection_id
        hello: dict[str, object] = {
            "username": options.username,
            "broker_creds": options.connection_token or "",
            "connection_id": known or None,
        }
        try:
            async with asyncio.timeout(self._timeout_s):
                # The broker listens on IPv4 only: `localhost` must not become ::1.
                family = socket.AF_UNSPEC if ":" in options.host else socket.AF_INET
                opened = await asyncio.open_connection(options.host, options.tcp_port, family=family)
                self._reader, self._writer = opened
                self._grant = read_grant(await self._exchange(hello), self._where)
                self._signed_in(self._grant)
                if known:
                    # Coming back does not count as a ping: without one the next sweep ends the session again.
                    await self._ping()
        except TimeoutError:
            await self._hang_up()
            raise NotReachable(f"{self._where} did not answer within {self._timeout_s:g} s") from None
        except OSError as exc:
            await self._hang_up()
            raise NotReachable(f"nobody answers at {self._where}: {exc.strerror or exc}") from exc
        except BaseException:
            await self._hang_up()
            raise
        self._why = f"the session with {self._where} was not renewed in time"
        self._set(connected=True)

    def _signed_in(self, grant: Grant) -> None:
        now = asyncio.get_running_loop().time()
        self._pinged_at = now
        self._ping_at = now + _PING_SHARE * grant.ping_interval_s
        self._refresh_at = now + _REFRESH_SHARE * grant.token_life_s

    async def _ping(self) -> None:
        assert self._grant is not None
        async with asyncio.timeout(self._timeout_s):
            reply = await self._exchange({"ping": True})
        if not _whole(reply):
            raise Disconnected("the broker did not answer a ping")
        self._pinged_at = asyncio.get_running_loop().time()
        self._ping_at = self._pinged_at + _PING_SHARE * self._grant.ping_interval_s
        log.debug("session.pinged", broker=self._where)

    async def _refresh(self) -> None:
        assert self._grant is not None
        async with asyncio.timeout(self._timeout_s):
            reply = await self._exchange({"resend_access_token": True})
        try:
            found = json.loads(reply)
            token, life_s = str(found["access_token"]), float(found["access_token_exp"]) / 1000
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            raise Disconnected("the broker did not renew the access token") from None
        self._grant = replace(self._grant, access_token=token, token_life_s=life_s)
        self._refresh_at = asyncio.get_running_loop().time() + _REFRESH_SHARE * life_s
        self._set(connected=self._connected)
        log.debug("session.token_renewed", broker=self._where)

    async def _exchange(self, message: dict[str, object]) -> bytes:
        """Writes one request and reads its answer: a whole JSON value, or what came before the end."""
        assert self._reader is not None
        assert self._writer is not None
        self._writer.write(json.dumps(message).encode())
        await self._writer.drain()
        reply = b""
        while len(reply) < _REPLY_MAX:
            data = await self._reader.read(_REPLY_MAX)
            reply += data
            if not data or reply.startswith(b"INFO ") or _whole(reply):
                break
        return reply

    # -------------------------------------------------------------------- state

    async def _hang_up(self) -> None:
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()

    def _wake(self) -> None:
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time())

    def _set(self, *, connected: bool) -> None:
        self._connected = connected
        self._changed.set()
        self._changed = asyncio.Event()
        for watcher in list(self._watchers):
            try:
                watcher()
            except Exception as exc:  # It would end the keeper, and with it the session.  # noqa: BLE001
                log.error("session.watcher_failed", broker=self._where, **failure(exc))

    async def _until(self, reached: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                while not reached():
                    if self._closed:
                        raise ConnectionClosed(self._why)
                    await self._changed.wait()
        except TimeoutError:
            raise Disconnected(f"{self._why}; try again later") from None


def _whole(reply: bytes) -> bool:
    if not reply.startswith(b"{"):
        return False
    try:
        json.loads(reply)
    except (ValueError, RecursionError):
        return False
    return True
