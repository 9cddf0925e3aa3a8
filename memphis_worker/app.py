"""App and Router: where handlers are declared. Making one does no I/O; `memphis-worker run` does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, TypeVar

from memphis_worker.checked import check_option
from memphis_worker.context import Produce, State
from memphis_worker.errors import InvalidHandler, InvalidOption, MemphisWorkerError, UsageError
from memphis_worker.handler import Handler, make_handler
from memphis_worker.middleware import Middleware
from memphis_worker.options import HandlerOptions, StationOptions
from memphis_worker.registry import Registry
from memphis_worker.retry import Backoff

__all__ = ["App", "Router"]

F = TypeVar("F", bound=Callable[..., object])
Lifespan = Callable[["App"], AbstractAsyncContextManager[None]]


class Router:
    """Handlers declared apart from the app, put into it by `app.include(router)`."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = []

    def handler(
        self,
        *misplaced: object,
        station: str = "",
        group: str | None = None,
        name: str | None = None,
        concurrency: int | None = None,
        batch_size: int | None = None,
        pull_interval_ms: int = 1000,
        batch_max_time_to_wait_ms: int = 5000,
        max_ack_time_ms: int = 30_000,
        max_msg_deliveries: int = 10,
        retry: Backoff | None = None,
        timeout_s: float | None = None,
        dead_letter: str | Literal[False] = "auto",
        station_options: StationOptions | None = None,
    ) -> Callable[[F], F]:
        """Makes the decorated function the handler of a consumer group. The function itself stays as it is.

        `group`: default the function's name. `name`: default `module.function`. The rest: see HandlerOptions and
        StationOptions. Raises InvalidHandler, InvalidName, InvalidOption, at import.
        """
        if misplaced or not station:
            raise InvalidHandler(
                'a handler is declared by @app.handler(station="orders"), with brackets and the station'
            )
        check_option("name", name, str | None)
        check_option("group", group, str | None)
        check_option("retry", retry, Backoff | None)
        check_option("station_options", station_options, StationOptions | None)
        options = HandlerOptions(
            concurrency=concurrency,
            batch_size=batch_size,
            pull_interval_ms=pull_interval_ms,
            batch_max_time_to_wait_ms=batch_max_time_to_wait_ms,
            max_ack_time_ms=max_ack_time_ms,
            max_msg_deliveries=max_msg_deliveries,
            timeout_s=timeout_s,
            dead_letter=dead_letter,
        )

        def register(function: F) -> F:
            self._add(
                make_handler(
                    function,
                    station=station,
                    group=group,
                    name=name,
                    options=options,
                    retry=retry or Backoff(),
                    station_options=station_options,
                )
            )
            return function

        return register

    def _add(self, handler: Handler) -> None:
        self.handlers.append(handler)


class App(Router):
    """The application: handlers, middleware, lifespan, state. `memphis-worker run module:app` runs it.

    name:      in logs and metrics.
    url:       the broker, where neither `--url` nor `MEMPHIS_WORKER_URL` says so.
    discover:  modules or packages to import for their handlers when the worker starts.
    lifespan:  `async with lifespan(app): ...` around the whole life of the process.
    """

    def __init__(
        self,
        name: str = "app",
        *,
        url: str | None = None,
        discover: Sequence[str] = (),
        lifespan: Lifespan | None = None,
    ) -> None:
        super().__init__()
        check_option("name", name, str)
        check_option("url", url, str | None)
        if lifespan is not None and (not callable(lifespan) or inspect.isasyncgenfunction(lifespan)):
            raise InvalidOption(f"App {name!r}: lifespan is no function of @contextlib.asynccontextmanager")
        if isinstance(discover, str):
            raise UsageError(f"App(discover={discover!r}): give a list of modules, [{discover!r}]")
        self.name = name
        self.url = url
        self.discover = tuple(discover)
        self.lifespan = lifespan
        self.state = State()
        self.registry = Registry()
        self.middlewares: list[Middleware] = []
        self._produce: Produce | None = None

    def __repr__(self) -> str:
        return f"<App {self.name} handlers={len(self.registry)}>"

    def _add(self, handler: Handler) -> None:
        self.registry.add(handler)
        super()._add(handler)

    def include(self, router: Router) -> None:
        """Takes over the router's handlers. Raises InvalidHandler where two share a group."""
        if not isinstance(router, Router):
            raise InvalidOption(f"app.include() takes a Router, not a {type(router).__name__}")
        if router.handlers and all(any(each is known for known in self.handlers) for each in router.handlers):
            raise InvalidHandler(f"the router of handler {router.handlers[0].name} is included already")
        for handler in router.handlers:
            self._add(handler)

    def middleware(self, wrap: Middleware) -> Middleware:
        """Decorates `async def wrap(message, call_next)`; the first one declared is the outermost."""
        if not callable(wrap):
            raise InvalidOption(f"app.middleware takes an async function, not a {type(wrap).__name__}")
        self.middlewares.append(wrap)
        return wrap

    async def produce(
        self, station: str, payload: object, headers: Mapping[str, str] | None = None, msg_id: str | None = None
    ) -> None:
        """Sends one message through the running worker's connection; returns when the broker has confirmed it.

        payload: bytes, text, or anything JSON can hold, dataclasses included. `msg_id`: the broker stores one
        message of an id within the station's dedup window. Raises ProduceFailed, PayloadTooLarge, Missing.
        """
        if self._produce is None:
            raise MemphisWorkerError(
                f"app {self.name!r} is not running, so it cannot produce to {station!r}; "
                "inside a handler it can, elsewhere use memphis_worker.Memphis"
            )
        await self._produce(station, payload, headers=headers, msg_id=msg_id)

    def bind(self, produce: Produce | None) -> None:
        """For the worker: what `produce` uses while it runs."""
        self._produce = produce
