"""The nats-server child process: started, watched, restarted on its port and store, ended."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from memphis_worker.embedded import guard
from memphis_worker.embedded.binary import find_nats_server
from memphis_worker.errors import BrokerError, InvalidOption, MemphisWorkerError, PortTaken
from memphis_worker.log import get_logger

log = get_logger(__name__)

READY_S = 10.0
PROBE_S = 0.01
GREETING_S = 1.0
STEADY_S = 10.0
"""After so long a life the next restart is quick again."""
BACKOFF_FIRST_S = 0.025
BACKOFF_LAST_S = 2.0


class NatsServer:
    """One nats-server with JetStream, its store, configuration and log (`nats-server.log`) in `folder`.

    `port` 0 takes a free one, which a restart keeps. `token` is the NATS token of every client. `temporary`: the folder
    goes with nats-server when the broker was killed. `inherit`: file descriptors that nats-server holds open.
    max_payload stays at the 1 MiB of nats-server: the compose file of Memphis 0.3.0 does not raise it either.
    """

    def __init__(
        self,
        *,
        folder: Path,
        host: str,
        port: int,
        token: str,
        temporary: bool = False,
        inherit: Sequence[int] = (),
    ) -> None:
        self._folder = folder
        self._temporary = temporary
        self._host = host
        self._token = token
        self._inherit = tuple(inherit)
        self._name = f"memphis-embedded-{secrets.token_hex(4)}"
        self._guard: subprocess.Popen[bytes] | None = None
        self._life: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closing = False
        self.port = port
        """The port that it listens on; 0 until `start()` when a free one was asked for."""
        self.pid: int | None = None
        """The process id, None when it is not running."""
        self.restarts = 0
        """How often it was started again after it had died by itself."""

    async def start(self) -> None:
        """Returns when it greets on its port. `PortTaken`, `MissingExtra`, or `BrokerError` with its last log line."""
        self._check_port()
        await self._run(find_nats_server())
        self._watcher = asyncio.create_task(self._watch(), name="embedded-nats-server")

    async def close(self) -> None:
        """Ends it and waits until it is gone."""
        self._closing = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._end()

    def _check_port(self) -> None:
        """Before the start: who listens there now could greet in its place."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            socket.create_server((self._host, self.port), family=family).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InvalidOption(f"cannot listen on {self._host}:{self.port}: {error.strerror or error}") from error
            raise PortTaken(taken("data", self._host, self.port)) from error

    async def _watch(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            began = time.monotonic()
            if self._life is not None:
                await self._life.read()
                log.warning("nats_server.died", port=self.port)
            await self._end()
            lasted = time.monotonic() - began > STEADY_S
            backoff_s = BACKOFF_FIRST_S if lasted else min(backoff_s * 2, BACKOFF_LAST_S)
            await asyncio.sleep(backoff_s)
            try:
                await self._run(find_nats_server())
            except MemphisWorkerError as error:
                log.warning("nats_server.start_failed", port=self.port, error=str(error))
                continue
            self.restarts += 1
            log.info("nats_server.restarted", port=self.port, pid=self.pid)

    async def _run(self, program: Path) -> None:
        self._spawn([str(program), "-c", str(self._configure())])
        try:
            await self._connect_life()
            async with asyncio.timeout(READY_S):
                await self._ready()
        except TimeoutError:
            await self._end()
            raise BrokerError(f"nats-server did not answer within {READY_S:g} s; see {self._log}") from None
        except BaseException:
            await self._end()
            raise

    def _configure(self) -> Path:
        for stale in self._folder.glob("*.ports"):
            stale.unlink(missing_ok=True)
        lines = [
            f"server_name: {self._name}",
            f"host: {_quoted(self._host)}",
            f"port: {self.port or -1}",
            f"ports_file_dir: {_quoted(str(self._folder))}",
            f"jetstream {{ store_dir: {_quoted(str(self._folder / 'streams'))} }}",
            f"authorization {{ token: {_quoted(self._token)} }}",
        ]
        path = self._folder / "nats-server.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def _spawn(self, command: list[str]) -> None:
        with self._log.open("ab") as output:
            self._guard = subprocess.Popen(  # noqa: S603 - our own script and the nats-server that was found
                [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                pass_fds=self._inherit,
                env={**os.environ, **self._guarded()},
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, not its
            )

    def _guarded(self) -> dict[str, str]:
        passed = ",".join(map(str, self._inherit))
        return {"GUARD_PASS_FDS": passed, "GUARD_TEMPORARY": str(self._folder) if self._temporary else ""}

    async def _connect_life(self) -> None:
        process = self._process()
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), _pipe(process.stdout))
        self._life, self._transport = reader, transport
        line = await reader.readline()
        if not line:
            raise self._failure()
        self.pid = int(line)

    async def _ready(self) -> None:
        while True:
            if self._life is None or self._life.at_eof():
                raise self._failure()
            if self._read_port() and await self._greets():
                return
            await asyncio.sleep(PROBE_S)

    def _read_port(self) -> bool:
        """A free port is nats-server's own choice: it writes a file when it listens."""
        if self.port:
            return True
        try:
            text = (self._folder / f"nats-server_{self.pid}.ports").read_text(encoding="utf-8")
            self.port = int(json.loads(text)["nats"][0].rpartition(":")[2])
        except (OSError, ValueError):
            return False
        return True

    async def _greets(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(reachable(self._host), self.port)
        except OSError:
            return False
        try:
            async with asyncio.timeout(GREETING_S):
                greeting = await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
        return greeting.startswith(b"INFO ") and self._name.encode() in greeting

    def _failure(self) -> BrokerError | PortTaken:
        last = self._last_log_line()
        if "address already in use" in last:
            return PortTaken(taken("data", self._host, self.port))
        return BrokerError(f"nats-server ended at start: {last or 'it said nothing'}")

    def _last_log_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    async def _end(self) -> None:
        process, self._guard, self.pid = self._guard, None, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if self._life is not None:
            await self._life.read()  # its end is the end of nats-server and of its guard
        if self._transport is not None:
            self._transport.close()
        self._life = self._transport = None
        process.wait()

    def _process(self) -> subprocess.Popen[bytes]:
        assert self._guard is not None
        return self._guard

    @property
    def _log(self) -> Path:
        return self._folder / "nats-server.log"


def reachable(host: str) -> str:
    """The address to reach a listener on `host`: a wildcard is reached by loopback."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def taken(kind: str, host: str, port: int) -> str:
    """One line for a port that somebody else listens on; `kind` is management, tcp or data."""
    return f"{host}:{port} is taken; choose another {kind} port ({kind}_port=, --{kind}-port)"


def _quoted(text: str) -> str:
    """A string of nats-server's configuration: quoted, so that `$` and `#` mean nothing."""
    return json.dumps(text, ensure_ascii=False)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
