"""The control channel: JSON messages over TCP, one reply to each; connect, token refresh, ping.

Framing and texts as Memphis 0.3.0 (recorded in tests/wire/classic/tcp.jsonl). No delimiter: each message is read with a
fresh decoder that takes one JSON value, and what came in the same read behind it is lost: a client must not pipeline.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from typing import Any

from memphis_worker.embedded import gojson
from memphis_worker.embedded.ids import ZERO, decode_id
from memphis_worker.embedded.jetstream import JetStream
from memphis_worker.embedded.listener import client_address
from memphis_worker.embedded.presence import Presence
from memphis_worker.embedded.settings import Settings
from memphis_worker.embedded.state import MANAGEMENT, Connection, State
from memphis_worker.embedded.tokens import Tokens

CHUNK = 65536
_SPACE = b" \t\r\n"
_LITERALS = b'"-0123456789tfn'


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlMessage:
    """One message; what is absent or null has its zero value."""

    username: str
    broker_creds: str
    connection_id: str
    resend_access_token: bool
    ping: bool


class ProtocolError(Exception):
    """Not a message, or the end of the stream."""


class Refused(Exception):
    """The text that ends a connect."""


class ControlChannel:
    """`session` serves one connection of a Listener."""

    def __init__(
        self, *, state: State, settings: Settings, presence: Presence, tokens: Tokens, jetstream: JetStream
    ) -> None:
        self._state = state
        self._settings = settings
        self._presence = presence
        self._tokens = tokens
        self._jetstream = jetstream

    async def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect, then messages until the client or a message that cannot be read ends it."""
        try:
            message = await read_message(reader)
            connection = self._connect(message, client_address(writer))
        except ProtocolError:
            return await _send(writer, b"Memphis protocol error")
        except Refused as refused:
            return await _send(writer, str(refused).encode())
        try:
            await _send(writer, self._connected(message.username, connection))
            await self._serve(connection, message.username, reader, writer)
        except (ProtocolError, ConnectionError):
            # Not on a cancel: a broker that stops marks nothing.
            self._presence.drop(connection)

    def _connect(self, message: ControlMessage, address: str) -> Connection:
        user = self._state.user(message.username.lower())
        if user is None:
            raise Refused("User is not exist")
        if user.user_type == MANAGEMENT:
            raise Refused("Please use a user of type Root/Application and not Management")
        if not self._jetstream.is_connected:
            raise Refused("Server error: memphis-broker: no servers available for connection")
        if not hmac.compare_digest(message.broker_creds.encode(), self._settings.token.encode()):
            raise Refused("Server error: memphis-broker: authorization violation")
        return self._presence.connect(user, message.connection_id, address)

    async def _serve(
        self, connection: Connection, username: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            message = await read_message(reader)
            if message.resend_access_token:
                if self._state.user(username.lower()) is None:
                    return  # the user was removed: the socket closes and nothing is marked
                await _send(writer, self._refreshed(username, connection))
            elif message.ping:
                self._presence.ping(connection)
                await _send(writer, _reply(connection, ping_interval_ms=self._settings.ping_interval_ms))

    def _connected(self, username: str, connection: Connection) -> bytes:
        return self._with_token(username, connection, self._settings.ping_interval_ms)

    def _refreshed(self, username: str, connection: Connection) -> bytes:
        return self._with_token(username, connection, 0)

    def _with_token(self, username: str, connection: Connection, ping_interval_ms: int) -> bytes:
        user = self._state.user(username.lower())
        assert user is not None
        return _reply(
            connection,
            access_token=self._tokens.access(user),
            access_token_exp=int(self._settings.jwt_expires_in_s * 1000),
            ping_interval_ms=ping_interval_ms,
        )


def _reply(
    connection: Connection, *, access_token: str = "", access_token_exp: int = 0, ping_interval_ms: int
) -> bytes:
    return gojson.compact(
        {
            "connection_id": connection.id,
            "access_token": access_token,
            "access_token_exp": access_token_exp,
            "ping_interval_ms": ping_interval_ms,
        }
    )


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """One write: the SDK reads a reply with one recv(1024)."""
    writer.write(data)
    await writer.drain()


async def read_message(reader: asyncio.StreamReader) -> ControlMessage:
    """The next message, in however many segments it comes. `ProtocolError` for anything else and for the end."""
    received = b""
    while (end := value_end(received)) is None:
        chunk = await reader.read(CHUNK)
        if not chunk:
            raise ProtocolError("end of the stream")
        received += chunk
    try:
        return decode_message(received[:end])
    except ValueError as error:
        raise ProtocolError(str(error)) from error


def value_end(data: bytes) -> int | None:
    """Where the first JSON value ends, None when it may go on. `ProtocolError` when none begins.

    A value without brackets ends only with a byte behind it: Go's decoder waits for that byte, so a lone one hangs.
    """
    start = len(data) - len(data.lstrip(_SPACE))
    if start == len(data):
        return None
    if data[start] in b"{[":
        return _closed(data, start)
    if data[start] in _LITERALS:
        return _bare_end(data, start)
    raise ProtocolError("no JSON value")


def _closed(data: bytes, start: int) -> int | None:
    depth, quoted, position = 0, False, start
    while position < len(data):
        byte = data[position]
        if quoted:
            if byte == 0x5C:
                position += 1
            quoted = byte != 0x22
        elif byte == 0x22:
            quoted = True
        elif byte in b"{[":
            depth += 1
        elif byte in b"}]":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return None


def _bare_end(data: bytes, start: int) -> int | None:
    """Where a value without brackets ends, None while no byte follows it."""
    if data[start] == 0x22:
        end = data.find(b'"', start + 1) + 1
        return end if 0 < end < len(data) else None
    end = start
    while end < len(data) and (chr(data[end]).isalnum() or data[end] in b"+-."):
        end += 1
    return end if end < len(data) else None


def decode_message(data: bytes) -> ControlMessage:
    """Keys in any case, unknown ones ignored; ValueError for a wrong type, also of `connection_id` in a ping."""
    decoded = gojson.loads_first(data)
    if decoded is None:
        decoded = {}
    if not isinstance(decoded, dict):
        raise ValueError("not an object")
    values: dict[str, Any] = {
        "username": "",
        "broker_creds": "",
        "connection_id": ZERO,
        "resend_access_token": False,
        "ping": False,
    }
    for key, value in decoded.items():
        name = key.lower()
        if name == "connection_id":
            values[name] = decode_id(value)
        elif name in values and value is not None:
            if type(value) is not type(values[name]):
                raise ValueError(f"{name} has a wrong type")
            values[name] = gojson.no_surrogates(value) if isinstance(value, str) else value
    return ControlMessage(**values)
