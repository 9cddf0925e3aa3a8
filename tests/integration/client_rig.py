"""What the client's integration tests share: a connection to cut, and a client of a broker."""

from __future__ import annotations

import asyncio
import contextlib

from memphis_worker.client.connection import Memphis
from memphis_worker.embedded import EmbeddedBroker


class Cable:
    """A TCP connection between a client and one of the broker's ports that can be cut, and kept cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Cable:
        await self.mend()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.tear()

    async def mend(self) -> None:
        """Takes connections, on the same port as before."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def tear(self) -> None:
        """Ends all connections and refuses new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.cut()
        if server is not None:
            await server.wait_closed()  # since Python 3.12 this waits for the connections, too
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Ends all connections; new ones are possible at once."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(far_writer)
            back = asyncio.create_task(self._copy(far_reader, writer))
            try:
                await self._copy(reader, far_writer)
            finally:
                far_writer.close()
                self._writers.discard(far_writer)
                await back
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def connect(broker: EmbeddedBroker, **options: object) -> Memphis:
    """A client of this broker, with the options of `Memphis.connect` where given."""
    memphis = Memphis()
    arguments: dict[str, object] = {
        "host": "127.0.0.1",
        "username": "root",
        "connection_token": broker.token,
        "management_port": broker.management_port,
        "tcp_port": broker.tcp_port,
        "data_port": broker.data_port,
        "timeout_ms": 10_000,
        **options,
    }
    await memphis.connect(**arguments)  # type: ignore[arg-type]
    return memphis
