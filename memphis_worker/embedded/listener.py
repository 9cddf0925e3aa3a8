"""A TCP listener: one named task for each connection, all of them ended by `close()`."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

from memphis_worker.embedded.process import taken
from memphis_worker.errors import InvalidOption, PortTaken
from memphis_worker.failure import failure
from memphis_worker.log import get_logger

log = get_logger(__name__)

Session = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """`kind` (management, tcp) names the port in errors. `bind()` takes the port, `serve()` lets clients in."""

    def __init__(self, *, kind: str, host: str, port: int, session: Session) -> None:
        self._kind = kind
        self._host = host
        self._session = session
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = port
        """The port; 0 until `bind()` when a free one was asked for."""

    async def bind(self) -> None:
        """`PortTaken` when somebody else has the port, `InvalidOption` when the address is not ours."""
        try:
            # One family, as the real broker: two sockets on a free port would have two ports.
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            self._server = await asyncio.start_server(
                self._accept, self._host, self.port, family=family, start_serving=False
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(taken(self._kind, self._host, self.port)) from error
            raise InvalidOption(f"cannot listen on {self._host}:{self.port}: {error.strerror or error}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def serve(self) -> None:
        """From here on clients are answered."""
        assert self._server is not None
        await self._server.start_serving()

    async def close(self) -> None:
        """Stops listening and cancels what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._run(reader, writer), name=f"embedded-{self._kind}-session")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._session(reader, writer)
        except (ConnectionError, TimeoutError):
            pass  # the client is gone; its session has nothing left to do
        except Exception as exc:  # one broken session must not be the end of the broker  # noqa: BLE001
            log.error("embedded_session.failed", listener=self._kind, **failure(exc))
        finally:
            writer.close()


def client_address(writer: asyncio.StreamWriter) -> str:
    """The address of the other side, without its port."""
    peer = writer.get_extra_info("peername")
    return str(peer[0]) if peer else ""
