from __future__ import annotations

import pytest

from memphis_worker.client import names
from memphis_worker.errors import InvalidName


def test_a_name_is_lower_cased() -> None:
    assert names.station_name("Orders_2") == "orders_2"


@pytest.mark.parametrize("name", ["", "a-b", "a.b", "a b", "é", "x" * 33, "a\n", "$memphis"])
def test_a_name_the_broker_would_refuse_is_refused_here(name: str) -> None:
    with pytest.raises(InvalidName, match="use 1 to 32 letters a-z, digits and _"):
        names.station_name(name)


def test_a_name_of_32_characters_is_allowed() -> None:
    assert names.group_name("x" * 32) == "x" * 32


def test_a_factory_name_has_25_characters_at_most() -> None:
    assert names.factory_name("x" * 25) == "x" * 25
    with pytest.raises(InvalidName, match="use 1 to 25 letters"):
        names.factory_name("x" * 26)


def test_the_error_names_the_kind_and_the_name() -> None:
    with pytest.raises(InvalidName, match=r"^consumer group name 'a-b' is not allowed"):
        names.group_name("a-b")


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidName, match="is a int"):
        names.producer_name(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("group", ["billing", "g" * 32])
def test_member_names_differ_and_are_allowed(group: str) -> None:
    first, second = names.member_name(group), names.member_name(group)
    assert first != second
    assert first.startswith(group[:19] + "_")
    assert names.consumer_name(first) == first


def test_the_subjects_that_follow_from_a_station_and_a_group() -> None:
    assert names.station_subject("orders") == "orders.final"
    assert names.resent_subject("orders", "billing") == "$memphis_dlq_orders_billing"
