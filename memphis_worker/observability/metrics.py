"""Prometheus metrics: plain numbers for each handler, made into families when somebody scrapes.

A message costs a look-up and a few additions here; ten `prometheus_client` updates would cost more than the whole
rest of it. The loop's thread writes, a scrape reads from another: every number is right, two of them may be an
instant apart. At rest `received == sum(processed) + in_progress + buffered` for each handler.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from memphis_worker.client.message import Message
from memphis_worker.client.pull import PullStream
from memphis_worker.handler import Handler
from memphis_worker.observability.health import ready
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.executor import Executor
from memphis_worker.runtime.instrument import OUTCOMES, REASONS, Instrument
from memphis_worker.runtime.runner import Runner
from memphis_worker.runtime.status import Status

__all__ = ["BUCKETS", "PREFIX", "SPEC", "Family", "Metrics"]

PREFIX = "memphis_worker_"
#: Upper bounds of the processing histogram [s].
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
EXCEPTIONS_MAX = 20
OTHER = "_OTHER"
STATES = ("starting", "running", "draining", "stopped")
CONNECTION_EVENTS = ("connect", "disconnect", "reconnect")
OPERATIONS = ("ack", "nak", "term", "in_progress", "dead_letter")
#: Outcomes of deliveries that no handler ran for: they have no duration.
_UNRUN = frozenset({"skip", "released"})

_HANDLER = ("handler", "station")
_GROUP = ("station", "consumer_group", "partition")


class Family(NamedTuple):
    """One metric as it is promised: its name without the prefix, and without the `_total` that counters get."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    help: str


SPEC = (
    Family("build_info", "gauge", ("version", "python_version", "implementation"), "Always 1."),
    Family("state", "gauge", ("state",), "1 for the state that the worker is in."),
    Family("ready", "gauge", (), "1 while /readyz answers 200."),
    Family("connected", "gauge", (), "1 while the broker's data connection stands."),
    Family("connection_events", "counter", ("event",), "Changes of the data connection."),
    Family("handler_info", "gauge", (*_HANDLER, "consumer_group", "mode"), "Always 1, for each handler."),
    Family("handler_concurrency_limit", "gauge", _HANDLER, "Handlers that may run at once."),
    Family("messages_received", "counter", _HANDLER, "Deliveries, redeliveries included."),
    Family("messages_redelivered", "counter", _HANDLER, "Deliveries after the first one of a message."),
    Family("messages_processed", "counter", (*_HANDLER, "outcome"), "Deliveries that are finished."),
    Family("messages_in_progress", "gauge", _HANDLER, "Handlers that run, and dead letters on their way."),
    Family("buffered_messages", "gauge", _HANDLER, "Deliveries that wait for a free slot."),
    Family("message_processing_duration_seconds", "histogram", _HANDLER, "Run time of the handler."),
    Family("dead_letters", "counter", (*_HANDLER, "reason"), "Messages recorded as dead letters."),
    Family("handler_exceptions", "counter", (*_HANDLER, "exception"), "Exceptions of the handler, by class."),
    Family("settle_errors", "counter", (*_HANDLER, "operation"), "Answers that could not be given to the broker."),
    Family("last_processed_timestamp_seconds", "gauge", _HANDLER, "When a message was last handled; 0: never."),
    Family("consumer_pending_messages", "gauge", _GROUP, "Not yet delivered to the group, as its last message said."),
)


class _Cell:
    """The numbers of one handler."""

    __slots__ = (
        "buckets", "dead", "exceptions", "handler", "last", "others", "received", "redelivered", "seconds", "settle",
        "success",
    )  # fmt: skip

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.received = 0
        self.redelivered = 0
        self.success = 0
        self.others = dict.fromkeys(OUTCOMES[1:], 0)
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.last = 0.0
        self.dead = dict.fromkeys(REASONS, 0)
        self.settle = dict.fromkeys(OPERATIONS, 0)
        self.exceptions = {OTHER: 0}


class Metrics(Instrument, Collector):
    """Counts as an instrument, answers as a collector of `registry`. Everything there is shows at 0 from the start."""

    def __init__(
        self,
        handlers: Sequence[Handler],
        options: WorkerOptions,
        status: Status,
        *,
        version: str,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._status = status
        self._options = options
        self._version = version
        # By identity: the hash of a frozen record would visit all its fields, for each message.
        self._cells = {id(handler): _Cell(handler) for handler in handlers}
        self._connections = dict.fromkeys(CONNECTION_EVENTS, 0)
        self._runner: Runner | None = None
        self._registry = registry
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry.register(self)

    def watch(self, runner: Runner) -> None:
        """From here on a scrape shows what this runner holds."""
        self._runner = runner

    def close(self) -> None:
        """Leaves the registry."""
        self._registry.unregister(self)

    # ------------------------------------------------------------- counting

    def received(self, handler: Handler, messages: Sequence[Message]) -> None:
        cell = self._cells[id(handler)]
        cell.received += len(messages)
        for message in messages:
            if message.deliveries > 1:
                cell.redelivered += 1

    def finished(self, handler: Handler, message: Message, outcome: str, duration_s: float) -> None:
        cell = self._cells[id(handler)]
        if outcome == "success":
            cell.success += 1
            cell.last = time.time()
        else:
            cell.others[outcome] += 1
            if outcome in _UNRUN:
                return
        cell.buckets[bisect_left(BUCKETS, duration_s)] += 1
        cell.seconds += duration_s

    def failed(self, handler: Handler, message: Message, error: BaseException) -> None:
        found = self._cells[id(handler)].exceptions
        name = type(error).__name__
        if name not in found and len(found) > EXCEPTIONS_MAX:
            name = OTHER
        found[name] = found.get(name, 0) + 1

    def dead_lettered(self, handler: Handler, message: Message, reason: str) -> None:
        self._cells[id(handler)].dead[reason] += 1

    def settle_failed(self, handler: Handler, operation: str) -> None:
        self._cells[id(handler)].settle[operation] += 1

    def connection_changed(self, connected: bool) -> None:
        events = self._connections
        event = "disconnect" if not connected else "reconnect" if events["connect"] else "connect"
        events[event] += 1

    # ------------------------------------------------------------- the scrape

    def describe(self) -> Iterator[Metric]:
        """The families without their values: a registry looks for clashing names."""
        return (_metric(family) for family in SPEC)

    def collect(self) -> Iterator[Metric]:
        for family in SPEC:
            metric = _metric(family)
            if isinstance(metric, HistogramMetricFamily):
                for cell in self._cells.values():
                    counts = list(cell.buckets)
                    metric.add_metric(_named(cell.handler), _cumulative(counts), cell.seconds)
            else:
                for labels, value in self._samples(family.name):
                    metric.add_metric(labels, value)
            yield metric

    def _samples(self, name: str) -> Iterable[tuple[Sequence[str], float]]:
        """Label values and value of everything in a family that is no histogram."""
        status = self._status
        match name:
            case "build_info":
                labels = (self._version, platform.python_version(), platform.python_implementation())
                return [(labels, 1)]
            case "state":
                return [((state,), state == status.state) for state in STATES]
            case "ready":
                return [((), self._ready())]
            case "connected":
                return [((), status.connected)]
            case "connection_events":
                return [((event,), count) for event, count in self._connections.items()]
            case "consumer_pending_messages":
                return [((each.station, each.group, ""), each.pending) for each in self._streams()]
        return [
            ((*_named(cell.handler), *labels), value)
            for cell in self._cells.values()
            for labels, value in self._of_handler(name, cell)
        ]

    def _of_handler(self, name: str, cell: _Cell) -> Iterable[tuple[tuple[str, ...], float]]:
        match name:
            case "handler_info":
                return [((cell.handler.group, "single"), 1)]
            case "handler_concurrency_limit":
                return [((), self._limit(cell.handler))]
            case "messages_received":
                return [((), cell.received)]
            case "messages_redelivered":
                return [((), cell.redelivered)]
            case "messages_processed":
                return _by_label({"success": cell.success, **cell.others})
            case "messages_in_progress":
                return [((), self._held(cell.handler)[0])]
            case "buffered_messages":
                return [((), self._held(cell.handler)[1])]
            case "dead_letters":
                return _by_label(cell.dead)
            case "handler_exceptions":
                return _by_label(cell.exceptions)
            case "settle_errors":
                return _by_label(cell.settle)
            case "last_processed_timestamp_seconds":
                return [((), cell.last)]
        raise AssertionError(f"the family {name!r} has no source")

    # ------------------------------------------------------------- the runner's side

    def _ready(self) -> bool:
        code, _ = ready(self._status, time.monotonic(), stall_timeout_s=self._options.stall_timeout_s)
        return code == 200

    def _executor(self) -> Executor | None:
        return self._runner.executor if self._runner is not None else None

    def _streams(self) -> list[PullStream]:
        return list(self._runner.streams) if self._runner is not None else []

    def _held(self, handler: Handler) -> tuple[int, int]:
        """In progress, and buffered."""
        executor = self._executor()
        for lane in executor.lanes if executor is not None else ():
            if lane.handler is handler:
                return executor.in_progress(lane) if executor is not None else 0, len(lane.ready)
        return 0, 0

    def _limit(self, handler: Handler) -> int:
        executor = self._executor()
        for lane in executor.lanes if executor is not None else ():
            if lane.handler is handler:
                return lane.limit
        wanted = handler.options.concurrency or self._options.concurrency
        return min(wanted, self._options.concurrency if handler.is_async else self._options.thread_limit)


def _metric(family: Family) -> GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily:
    name = PREFIX + family.name
    match family.kind:
        case "gauge":
            return GaugeMetricFamily(name, family.help, labels=family.labels)
        case "counter":
            return CounterMetricFamily(name, family.help, labels=family.labels)
        case "histogram":
            return HistogramMetricFamily(name, family.help, labels=family.labels)


def _named(handler: Handler) -> tuple[str, str]:
    return handler.name, handler.station


def _by_label(counts: dict[str, int]) -> list[tuple[tuple[str, ...], float]]:
    return [((label,), count) for label, count in list(counts.items())]


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))
