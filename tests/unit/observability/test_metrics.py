from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from memphis_worker import App, Backoff, Message, Reject
from memphis_worker.handler import Handler
from memphis_worker.observability.metrics import BUCKETS, EXCEPTIONS_MAX, OPERATIONS, OTHER, PREFIX, SPEC, Metrics
from memphis_worker.options import WorkerOptions
from memphis_worker.runtime.instrument import OUTCOMES, REASONS, Instrument
from memphis_worker.runtime.status import Status
from memphis_worker.testing import MemoryBroker, running
from memphis_worker.testing import run as in_virtual_time

#: deploy-spec 1.3, the part that exists: type and labels by the name in the exposition.
PROMISED = {
    "build_info": ("gauge", "implementation python_version version"),
    "state": ("gauge", "state"),
    "ready": ("gauge", ""),
    "connected": ("gauge", ""),
    "connection_events_total": ("counter", "event"),
    "handler_info": ("gauge", "consumer_group handler mode station"),
    "handler_concurrency_limit": ("gauge", "handler station"),
    "messages_received_total": ("counter", "handler station"),
    "messages_redelivered_total": ("counter", "handler station"),
    "messages_processed_total": ("counter", "handler outcome station"),
    "messages_in_progress": ("gauge", "handler station"),
    "buffered_messages": ("gauge", "handler station"),
    "message_processing_duration_seconds_bucket": ("histogram", "handler le station"),
    "message_processing_duration_seconds_count": ("histogram", "handler station"),
    "message_processing_duration_seconds_sum": ("histogram", "handler station"),
    "dead_letters_total": ("counter", "handler reason station"),
    "handler_exceptions_total": ("counter", "exception handler station"),
    "settle_errors_total": ("counter", "handler operation station"),
    "last_processed_timestamp_seconds": ("gauge", "handler station"),
    "consumer_pending_messages": ("gauge", "consumer_group partition station"),
}


@pytest.fixture
def app() -> App:
    app = App("shop")

    @app.handler(station="orders", group="billing", name="bill", retry=Backoff(base_s=5), max_msg_deliveries=3)
    async def bill(body: bytes) -> None:
        if body.startswith(b"fail"):
            raise ValueError(body)
        if body == b"reject":
            raise Reject("no")
        await asyncio.sleep(0.2)

    return app


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(app: App, registry: CollectorRegistry) -> Iterator[Metrics]:
    made = Metrics(list(app.registry), WorkerOptions(), Status(), version="9.9", registry=registry)
    yield made
    made.close()


def samples(registry: CollectorRegistry) -> dict[str, tuple[str, str]]:
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            found[sample.name] = (family.type, " ".join(sorted(sample.labels)))
    return found


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(PREFIX + name, labels)


BILL = {"handler": "bill", "station": "orders"}


def processed(registry: CollectorRegistry) -> dict[str, float | None]:
    return {each: value(registry, "messages_processed_total", outcome=each, **BILL) for each in OUTCOMES}


def test_the_scrape_is_what_the_table_promises(app: App, registry: CollectorRegistry, metrics: Metrics) -> None:
    async def scrape() -> dict[str, tuple[str, str]]:
        async with running(app, instruments=[metrics]) as worker:
            metrics.watch(worker.runner)
            return samples(registry)

    assert {PREFIX + name: each for name, each in PROMISED.items()} == in_virtual_time(scrape())


def test_every_family_has_a_help_text_and_its_own_name(registry: CollectorRegistry, metrics: Metrics) -> None:
    families: list[Metric] = list(registry.collect())
    assert [PREFIX + each.name for each in SPEC] == [each.name for each in families]
    assert all(each.documentation for each in families)


def test_everything_there_is_shows_at_0_from_the_start(registry: CollectorRegistry, metrics: Metrics) -> None:
    assert dict.fromkeys(OUTCOMES, 0.0) == processed(registry)
    for reason in REASONS:
        assert value(registry, "dead_letters_total", reason=reason, **BILL) == 0
    for operation in OPERATIONS:
        assert value(registry, "settle_errors_total", operation=operation, **BILL) == 0
    assert value(registry, "handler_exceptions_total", exception=OTHER, **BILL) == 0
    assert value(registry, "message_processing_duration_seconds_bucket", le="+Inf", **BILL) == 0
    assert value(registry, "connection_events_total", event="reconnect") == 0
    assert value(registry, "build_info", version="9.9", python_version="x", implementation="x") is None


def test_at_rest_received_is_processed_plus_in_progress_plus_buffered(
    app: App, registry: CollectorRegistry, metrics: Metrics
) -> None:
    def held() -> tuple[float, float, float, float]:
        done = sum(each or 0 for each in processed(registry).values())
        names = ("messages_received_total", "messages_in_progress", "buffered_messages")
        received, running_now, buffered = (value(registry, name, **BILL) or 0 for name in names)
        return received, done, running_now, buffered

    seen: list[tuple[float, float, float, float]] = []

    class Watching(Instrument):
        """Looks right after each outcome: also while another message's dead letter is on its way."""

        def finished(self, handler: Handler, message: Message, outcome: str, duration_s: float) -> None:
            seen.append(held())

    async def work() -> None:
        options = WorkerOptions(concurrency=4)
        async with running(app, instruments=[metrics, Watching()], options=options) as worker:
            metrics.watch(worker.runner)
            for i in range(30):
                await worker.produce("orders", b"fail" if i % 10 == 3 else b"reject" if i % 10 == 7 else b"fine")
            await worker.drained()
            seen.append(held())

    in_virtual_time(work())
    assert len(seen) == 37
    for received, done, running_now, buffered in seen:
        assert received == done + running_now + buffered
    assert any(running_now for _, _, running_now, _ in seen)
    assert any(buffered for _, _, _, buffered in seen)
    outcomes = {name: count for name, count in processed(registry).items() if count}
    assert outcomes == {"success": 24, "dead_letter": 6, "retry": 6}
    assert value(registry, "messages_redelivered_total", **BILL) == 6
    assert value(registry, "dead_letters_total", reason="exhausted", **BILL) == 3
    assert value(registry, "dead_letters_total", reason="rejected", **BILL) == 3
    assert value(registry, "handler_exceptions_total", exception="ValueError", **BILL) == 9
    assert value(registry, "message_processing_duration_seconds_count", **BILL) == 36


def test_durations_fall_into_their_buckets(app: App, registry: CollectorRegistry, metrics: Metrics) -> None:
    (handler,) = app.registry
    for duration in (0.001, 0.005, 0.2, 400.0):
        metrics.finished(handler, None, "success", duration)  # type: ignore[arg-type]
    metrics.finished(handler, None, "skip", 0.0)  # type: ignore[arg-type]

    def at_most(bound: str) -> float | None:
        return value(registry, "message_processing_duration_seconds_bucket", le=bound, **BILL)

    assert [at_most("0.005"), at_most("0.1"), at_most("0.25"), at_most("300.0"), at_most("+Inf")] == [2, 2, 3, 3, 4]
    assert value(registry, "message_processing_duration_seconds_sum", **BILL) == pytest.approx(400.206)
    assert value(registry, "last_processed_timestamp_seconds", **BILL) > 1_600_000_000
    assert len(BUCKETS) == 14


def test_the_number_of_exception_labels_is_bounded(app: App, registry: CollectorRegistry, metrics: Metrics) -> None:
    (handler,) = app.registry
    for i in range(EXCEPTIONS_MAX + 5):
        metrics.failed(handler, None, type(f"Error{i}", (Exception,), {})())  # type: ignore[arg-type]
    family = next(each for each in registry.collect() if each.name == PREFIX + "handler_exceptions")
    counts = {sample.labels["exception"]: sample.value for sample in family.samples}
    assert len(counts) == EXCEPTIONS_MAX + 1
    assert counts[OTHER] == 5


def test_connections_are_counted_by_event(registry: CollectorRegistry, metrics: Metrics) -> None:
    for connected in (True, False, True, False):
        metrics.connection_changed(connected)
    events = {each: value(registry, "connection_events_total", event=each) for each in ("connect", "disconnect")}
    assert events == {"connect": 1, "disconnect": 2}
    assert value(registry, "connection_events_total", event="reconnect") == 1


def test_pending_is_what_the_last_message_said(app: App, registry: CollectorRegistry, metrics: Metrics) -> None:
    async def work() -> float | None:
        broker = MemoryBroker()
        async with running(app, broker=broker, instruments=[metrics], options=WorkerOptions(concurrency=1)) as worker:
            metrics.watch(worker.runner)
            for _ in range(10):
                await worker.produce("orders", b"fine")
            await asyncio.sleep(0.5)
            return value(
                registry, "consumer_pending_messages", station="orders", consumer_group="billing", partition=""
            )

    pending = in_virtual_time(work())
    assert pending is not None
    assert 0 < pending < 10


def test_two_of_them_cannot_share_a_registry(app: App, registry: CollectorRegistry, metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(list(app.registry), WorkerOptions(), Status(), version="1", registry=registry)
