"""The one place where options become objects. The command line and the testing kit call it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

from memphis_worker.app import App
from memphis_worker.client.control.plane import ControlPlane
from memphis_worker.client.produce import produce
from memphis_worker.client.sign_in import sign_in
from memphis_worker.client.transport import Transport
from memphis_worker.codec import encode
from memphis_worker.context import Produce
from memphis_worker.errors import UsageError
from memphis_worker.handler import Handler
from memphis_worker.options import ConnectOptions, WorkerOptions
from memphis_worker.runtime.instrument import Instrument, Instruments
from memphis_worker.runtime.runner import Runner, Session
from memphis_worker.runtime.status import Status
from memphis_worker.runtime.stop import Stop

__all__ = ["connector", "make_runner", "open_session", "producing", "select_handlers"]


def connector(options: ConnectOptions) -> Callable[[], Awaitable[Session]]:
    """What signs in to the broker of these options, once for each call."""

    async def connect() -> Session:
        return await open_session(options)

    return connect


async def open_session(options: ConnectOptions) -> Session:
    """Signs in to the control plane, then to the data port. Raises NotReachable, AuthenticationFailed, …"""
    plane, transport = await sign_in(options)
    return Session(plane, transport, producing(plane, transport, options.timeout_ms / 1000))


def producing(plane: ControlPlane, transport: Transport, timeout_s: float) -> Produce:
    """`app.produce` on a connection."""

    async def app_produce(
        station: str, payload: object, headers: Mapping[str, str] | None = None, msg_id: str | None = None
    ) -> None:
        await produce(
            plane,
            transport,
            station,
            encode(payload),
            producer="memphis_worker",
            headers=headers,
            msg_id=msg_id or str(uuid.uuid4()),
            timeout_s=timeout_s,
        )

    return app_produce


def select_handlers(app: App, options: WorkerOptions) -> list[Handler]:
    """The handlers of the app that these options ask for. Raises UsageError when none is left."""
    handlers = app.registry.select(options.handlers, options.exclude)
    if not handlers:
        what = "has no handler" if not len(app.registry) else "has no handler left after --handlers and --exclude"
        raise UsageError(f"app {app.name!r} {what}; there is nothing to run")
    return handlers


def make_runner(
    app: App,
    handlers: Sequence[Handler],
    options: WorkerOptions,
    *,
    connect: Callable[[], Awaitable[Session]],
    stop: Stop,
    status: Status,
    instruments: Sequence[Instrument] = (),
) -> Runner:
    """A runner with everything it needs."""
    return Runner(
        app, handlers, options, connect=connect, stop=stop, status=status, instrument=Instruments(instruments)
    )
