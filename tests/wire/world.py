"""A broker and its clients, as the recording had them around each exchange."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any, Self

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from memphis_worker.embedded import EmbeddedBroker
from tests.wire import raw_http

LONG_S = 10.0
POLL_S = 0.02


class Session:
    """One socket on the control channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connected: dict[str, Any]) -> None:
        self.reader = reader
        self.writer = writer
        self.id: str = connected["connection_id"]
        self.token: str = connected["access_token"]

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class World:
    """`ids`: recorded id -> ours."""

    def __init__(self, broker: EmbeddedBroker, secret: str = "x") -> None:
        self.broker = broker
        self.secret = secret
        self.ids: dict[str, str] = {}
        self.sessions: dict[str, Session] = {}
        self.kept: dict[str, str] = {}
        self.resent: list[Msg] = []
        self._nats: Client | None = None

    async def __aenter__(self) -> Self:
        self._nats = await nats.connect(f"nats://127.0.0.1:{self.broker.data_port}", token=self.broker.token)
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self.sessions.values():
            await session.close()
        await self.nats.close()

    @property
    def nats(self) -> Client:
        assert self._nats is not None
        return self._nats

    async def call(self, method: str, path: str, body: object = None, token: str | None = None) -> Any:
        """A call beside the recorded ones."""
        answer = await raw_http.request(
            self.broker.management_port,
            method,
            path,
            {"Authorization": f"Bearer {token or await self.root_token()}"},
            b"" if body is None else json.dumps(body).encode(),
        )
        assert answer.status_line == "HTTP/1.1 200 OK", (path, answer)
        return json.loads(answer.body)

    async def login(self, username: str = "root", password: str = "memphis") -> tuple[str, str]:
        """Access token and refresh token."""
        body = json.dumps({"username": username, "password": password}).encode()
        answer = await raw_http.request(self.broker.management_port, "POST", "/api/usermgmt/login", {}, body)
        cookie = answer.headers["set-cookie"][0].partition("=")[2].partition(";")[0]
        return json.loads(answer.body)["jwt"], cookie

    async def root_token(self) -> str:
        if "root" not in self.kept:
            self.kept["root"], self.kept["refresh"] = await self.login()
        return self.kept["root"]

    async def connect(self, name: str, username: str = "root", connection_id: str | None = None) -> Session:
        """Opens a session, kept under `name`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.broker.tcp_port)
        message = {"username": username, "broker_creds": "memphis", "connection_id": connection_id}
        writer.write(json.dumps(message).encode())
        session = Session(reader, writer, json.loads(await reader.read(1024)))
        self.sessions[name] = session
        return session

    async def drop(self, name: str, station: str, kind: str = "Consumers") -> None:
        """Closes a session and returns when the broker has marked what belongs to it in the station."""
        dropped = self.sessions.pop(name)
        before = await self._active(station, kind)
        await dropped.close()
        async with asyncio.timeout(LONG_S):
            while await self._active(station, kind) == before:
                await asyncio.sleep(POLL_S)

    async def _active(self, station: str, kind: str) -> list[bool]:
        path = f"/api/{kind.lower()}/getAll{kind}ByStation?station_name={station}"
        return [item["is_active"] for item in await self.call("GET", path)]

    async def producer(self, session: Session, name: str, station: str) -> None:
        body = {"name": name, "station_name": station, "connection_id": session.id, "producer_type": "application"}
        await self.call("POST", "/api/producers/createProducer", body, session.token)

    async def consumer(self, session: Session, name: str, station: str, group: str, **numbers: int) -> None:
        body = {
            "name": name,
            "station_name": station,
            "connection_id": session.id,
            "consumer_type": "application",
            "consumers_group": group,
            **numbers,
        }
        await self.call("POST", "/api/consumers/createConsumer", body, session.token)

    async def destroy_consumer(self, name: str, station: str) -> None:
        await self.call("DELETE", "/api/consumers/destroyConsumer", {"name": name, "station_name": station})

    async def jetstream(self, api: str, body: object = None) -> dict[str, Any]:
        """The raw reply of a JetStream API request."""
        payload = b"" if body is None else json.dumps(body).encode()
        reply = await self.nats.request(f"$JS.API.{api}", payload, timeout=LONG_S)
        return json.loads(reply.data)

    async def produce(self, subject: str, data: bytes, **headers: str) -> dict[str, Any]:
        """Publishes and waits for the ack; `Nats_Msg_Id` for the header with dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()} or None
        reply = await self.nats.request(subject, data, timeout=LONG_S, headers=named)
        return json.loads(reply.data)

    async def exhaust(self, station: str, group: str, poisoned: int) -> None:
        """Uses up two deliveries of everything that waits; returns when the broker counts so many dead letters."""
        inbox = self.nats.new_inbox()
        subscription = await self.nats.subscribe(inbox, cb=self._refuse_once)
        # Open until the last ack wait has run out: only then, and only to a waiting pull, the advisory is sent.
        wanted = json.dumps({"batch": 100, "expires": 5_000_000_000}).encode()
        await self.nats.publish(f"$JS.API.CONSUMER.MSG.NEXT.{station}.{group}", wanted, reply=inbox)
        async with asyncio.timeout(LONG_S):
            while await self._poisoned(station, group) != poisoned:
                await asyncio.sleep(POLL_S)
        await subscription.unsubscribe()

    async def _refuse_once(self, message: Msg) -> None:
        if message.reply and message.reply.split(".")[4] == "1":
            await self.nats.publish(message.reply, b"-NAK")

    async def _poisoned(self, station: str, group: str) -> int:
        path = f"/api/monitoring/getStationOverviewData?station_name={station}"
        groups = (await self.call("GET", path))["connected_cgs"]
        return next(int(found["poison_messages"]) for found in groups if found["name"] == group)

    def forge(self, claims: dict[str, object], algorithm: str = "HS256", secret: str | None = None) -> str:
        """A token that the broker has not made."""
        head = _packed({"alg": algorithm, "typ": "JWT"})
        signed = f"{head}.{_packed(claims)}"
        digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}.get(algorithm)
        key = (self.secret if secret is None else secret).encode()
        return f"{signed}.{_encoded(hmac.new(key, signed.encode(), digest).digest()) if digest else ''}"


def claims(**changed: object) -> dict[str, object]:
    """Those of root, expiring in an hour."""
    whole: dict[str, object] = {
        "user_id": "0" * 23 + "1",
        "username": "root",
        "user_type": "root",
        "creation_date": "2026-11-24T10:01:28.789Z",
        "already_logged_in": True,
        "avatar_id": 1,
        "exp": int(time.time()) + 3600,
    }
    return {name: value for name, value in {**whole, **changed}.items() if value is not None}


def _packed(value: object) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
