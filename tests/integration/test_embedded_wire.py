"""The embedded broker answers as the recorded one did, but for the differences that are listed with their reasons."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.wire import checks, compare, report
from tests.wire.compare import Outcome
from tests.wire.differences import ALLOWED, NOT_REPLAYED

FILES = ("http", "tcp", "streams", "consumers", "deadletters")


async def test_management_api_agrees() -> None:
    assert_agree(await report.replay_main(), at_least=461)


async def test_sandbox_instance_agrees() -> None:
    assert_agree(await report.replay_sandbox(), at_least=15)


async def test_broker_started_again_agrees(tmp_path: Path) -> None:
    assert_agree(await report.replay_restart(tmp_path), at_least=7)


async def test_control_channel_agrees() -> None:
    assert_agree(await report.replay_tcp(), at_least=78)


def test_listed_differences_exist_in_the_recordings() -> None:
    recorded = {line["scenario"] for file in FILES for line in compare.lines(file)}
    assert set() == (ALLOWED.keys() | NOT_REPLAYED.keys()) - recorded


def test_every_recorded_exchange_is_replayed_or_listed() -> None:
    looked_at = [*checks.STREAMS_BEFORE.values(), *checks.GROUPS_BEFORE.values(), checks.RESENT_AFTER.values()]
    replayed = {scenario for scenarios in looked_at for scenario in scenarios} | set(checks.DEDUP)
    replayed |= {line["scenario"] for line in compare.lines("http") if line["part"] != "E"}
    replayed |= {*report.RESTARTED, *report.OVERVIEW, *(line["scenario"] for line in compare.lines("tcp"))}
    recorded = {line["scenario"] for file in FILES for line in compare.lines(file)}
    assert recorded - replayed - NOT_REPLAYED.keys() == set()


def assert_agree(outcomes: list[Outcome], *, at_least: int) -> None:
    different = {outcome.scenario: outcome.difference for outcome in outcomes if outcome.difference}
    replayed = Counter(outcome.scenario for outcome in outcomes)
    unexpected = [outcome for outcome in outcomes if outcome.difference and outcome.scenario not in ALLOWED]
    outdated = [scenario for scenario in ALLOWED if scenario in replayed and scenario not in different]
    agree = len(outcomes) - len(different)
    print(f"{agree} of {len(outcomes)} exchanges agree")
    assert not unexpected, unexpected
    assert not outdated, outdated
    assert at_least <= agree
