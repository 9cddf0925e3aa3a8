"""A real broker for a laptop and for tests: nats-server as a child process, and the control plane of Memphis 0.3.0."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from memphis_worker.embedded.classic import ClassicApi
from memphis_worker.embedded.factories import Factories
from memphis_worker.embedded.folder import Folder
from memphis_worker.embedded.http import HttpSite
from memphis_worker.embedded.jetstream import JetStream, JetStreamError
from memphis_worker.embedded.listener import Listener
from memphis_worker.embedded.members import Members
from memphis_worker.embedded.overview import Overview
from memphis_worker.embedded.poison import Poisons
from memphis_worker.embedded.presence import Presence
from memphis_worker.embedded.process import NatsServer, reachable
from memphis_worker.embedded.settings import Settings
from memphis_worker.embedded.state import State
from memphis_worker.embedded.stations import LEAST_DEDUP_MS, Stations
from memphis_worker.embedded.tcp import ControlChannel
from memphis_worker.embedded.tokens import Tokens
from memphis_worker.embedded.users import Users
from memphis_worker.errors import BrokerError, InvalidOption
from memphis_worker.log import get_logger

log = get_logger(__name__)

SYSTEM_LOGS = "$memphis_sys_logs"


class EmbeddedBroker:
    """Memphis 0.3.0 as its clients see it: HTTP management, JSON/TCP control channel, NATS data port.

    An async context manager; it may be started on any event loop in any thread. Nothing happens in the constructor.

    `directory`: streams and records are kept there, and a broker started from it again goes on: old records are still
    active and old tokens valid, as after a crash of the real one. None: a temporary folder, removed by `close()`.
    Ports: 0 takes a free one; two alike: InvalidOption.
    `token`: the NATS token that all users share. `root_password`: of the user root.
    `jwt_expires_in_s`: life of an access token. `ping_interval_ms`: what clients are told; who does not ping for 5 s
    longer is inactive at the next sweep, one every `sweep_interval_s`. `overview_wait_s`: how long
    getStationOverviewData of a station without messages takes. `sandbox`: only root may remove and edit.
    `jwt_secret`, `refresh_jwt_secret`: None makes random ones.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        host: str = "127.0.0.1",
        management_port: int = 0,
        tcp_port: int = 0,
        data_port: int = 0,
        token: str = "memphis",  # noqa: S107 - the default of Memphis's own compose file
        root_password: str = "memphis",  # noqa: S107
        jwt_expires_in_s: float = 900,
        ping_interval_ms: int = 60_000,
        sweep_interval_s: float = 30.0,
        overview_wait_s: float = 3.0,
        sandbox: bool = False,
        jwt_secret: str | None = None,
        refresh_jwt_secret: str | None = None,
    ) -> None:
        self._host = host
        self._settings = Settings(
            token=token,
            root_password=root_password,
            jwt_expires_in_s=jwt_expires_in_s,
            ping_interval_ms=ping_interval_ms,
            sweep_interval_s=sweep_interval_s,
            overview_wait_s=overview_wait_s,
            sandbox=sandbox,
        )
        self._secrets = (jwt_secret, refresh_jwt_secret)
        self._ports = (management_port, tcp_port, data_port)
        given = [port for port in self._ports if port]
        if len(set(given)) < len(given):
            raise InvalidOption(f"two of the ports {', '.join(map(str, given))} are the same; each listens by itself")
        self._folder = Folder(directory)
        self._opened = AsyncExitStack()
        self._nats: NatsServer | None = None
        self._management: Listener | None = None
        self._control: Listener | None = None
        self._presence: Presence | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Returns when all three ports answer.

        `PortTaken` names the port, `MissingExtra` says what to install, `InvalidOption` for a folder or address that
        cannot be used, `BrokerError` when nats-server does not come up. Nothing is left running then.
        """
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        path = await self._open(self._folder)
        state = self._records(path)
        jetstream = JetStream()
        poisons, management, control = self._compose(state, jetstream)
        for listener in (management, control):
            self._opened.push_async_callback(listener.close)
            await listener.bind()
        self._management, self._control = management, control
        self._nats = NatsServer(
            folder=path,
            host=self._host,
            port=self._ports[2],
            token=self._settings.token,
            temporary=not self._folder.kept,
            inherit=[self._folder.lock],
        )
        self._opened.push_async_callback(self._nats.close)
        await self._nats.start()
        self._opened.push_async_callback(jetstream.close)
        url = f"nats://{_bracketed(reachable(self._host))}:{self._nats.port}"
        await jetstream.connect(url, self._settings.token)
        await _make_log_stream(jetstream)
        await poisons.listen()
        state.save()
        for listener in (management, control):
            await listener.serve()
            # Closed before nats-server: a client that loses that first would drop its session and be marked inactive.
            self._opened.push_async_callback(listener.close)
        sweeper = asyncio.create_task(self._sweep(), name="embedded-sweeper")
        self._opened.push_async_callback(_cancelled, sweeper)
        ports = {"management_port": management.port, "tcp_port": control.port, "data_port": self._nats.port}
        log.info("embedded_broker.started", **ports)

    async def _open(self, folder: Folder) -> Path:
        self._opened.callback(folder.close)
        return await folder.open()

    def _records(self, folder: Path) -> State:
        state = State(folder / "state.json" if self._folder.kept else None)
        state.load()
        jwt_secret, refresh_secret = self._secrets
        state.jwt_secret = state.jwt_secret if jwt_secret is None else jwt_secret
        state.refresh_secret = state.refresh_secret if refresh_secret is None else refresh_secret
        return state

    def _compose(self, state: State, jetstream: JetStream) -> tuple[Poisons, Listener, Listener]:
        settings = self._settings
        tokens = Tokens(state, settings)
        self._presence = presence = Presence(state, settings)
        users = Users(state, settings, presence, tokens)
        users.ensure_root()
        stations = Stations(state, jetstream)
        members = Members(state, jetstream, stations)
        poisons = Poisons(state, jetstream, members)
        overview = Overview(
            state=state, settings=settings, jetstream=jetstream, stations=stations, members=members, poisons=poisons
        )
        parts = (users, Factories(state, stations), stations, members, poisons, overview)
        endpoints = [endpoint for part in parts for endpoint in part.endpoints()]
        site = HttpSite(ClassicApi(state=state, settings=settings, tokens=tokens, endpoints=endpoints).find)
        channel = ControlChannel(state=state, settings=settings, presence=presence, tokens=tokens, jetstream=jetstream)
        management = Listener(kind="management", host=self._host, port=self._ports[0], session=site.session)
        control = Listener(kind="tcp", host=self._host, port=self._ports[1], session=channel.session)
        return poisons, management, control

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_interval_s)
            self.sweep()

    def sweep(self, now_ns: int | None = None) -> None:
        """Marks connections that have not pinged in time before `now_ns` (since 1970; None: now) as inactive."""
        assert self._presence is not None
        self._presence.sweep(now_ns)

    async def close(self) -> None:
        """Ends everything. Records are not marked inactive: a stop of the real broker does not, either."""
        await self._opened.aclose()

    @property
    def token(self) -> str:
        """The NATS token."""
        return self._settings.token

    @property
    def management_port(self) -> int:
        """The port of the HTTP management API."""
        return self._management.port if self._management else self._ports[0]

    @property
    def tcp_port(self) -> int:
        """The port of the control channel."""
        return self._control.port if self._control else self._ports[1]

    @property
    def data_port(self) -> int:
        """The port of nats-server."""
        return self._nats.port if self._nats else self._ports[2]

    @property
    def nats_server_pid(self) -> int | None:
        """The process id of nats-server; None while it is not running."""
        return self._nats.pid if self._nats else None

    @property
    def nats_server_restarts(self) -> int:
        """How often nats-server was started again after it had died by itself."""
        return self._nats.restarts if self._nats else 0

    @property
    def url(self) -> str:
        """How a client reaches it as root: `memphis://root:<token>@<host>?management_port=..&tcp_port=..&data_port=..`."""
        ports = f"management_port={self.management_port}&tcp_port={self.tcp_port}&data_port={self.data_port}"
        return f"memphis://root:{quote(self.token, safe='')}@{_bracketed(reachable(self._host))}?{ports}"


async def _make_log_stream(jetstream: JetStream) -> None:
    """The real broker's own stream, so that clients that list streams meet it; here nothing is written to it."""
    stream = {
        "name": SYSTEM_LOGS,
        "subjects": [SYSTEM_LOGS],
        "retention": "workqueue",
        "discard": "old",
        "storage": "file",
        "num_replicas": 1,
        "duplicate_window": LEAST_DEDUP_MS * 1_000_000,
    }
    durable = {
        "durable_name": f"{SYSTEM_LOGS}_consumers",
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": 30_000_000_000,
        "filter_subject": SYSTEM_LOGS,
        "replay_policy": "instant",
        "max_ack_pending": 65536,
    }
    try:
        await jetstream.request(f"STREAM.CREATE.{SYSTEM_LOGS}", stream)
        await jetstream.request(
            f"CONSUMER.DURABLE.CREATE.{SYSTEM_LOGS}.{SYSTEM_LOGS}_consumers",
            {"stream_name": SYSTEM_LOGS, "config": durable},
        )
    except JetStreamError as error:
        raise BrokerError(f"JetStream does not work: {error}") from error


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
