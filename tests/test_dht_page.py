"""Calls, numbers and metrics on the page of the DHT are those of the code."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from p2p import DhtConfig
from p2p.dht import (
    StoreLimits,
    contact,
    hearsay,
    lookup,
    pages,
    record,
    routing,
    schema,
    state,
    store,
)
from p2p.rpc import Method

PAGE = (Path(__file__).parent.parent / "docs" / "protocols" / "dht.md").read_text("utf-8")
OWNERS: dict[str, Any] = {
    "DhtConfig": DhtConfig(),
    "StoreLimits": StoreLimits(),
    "contact": contact,
    "hearsay": hearsay,
    "lookup": lookup,
    "pages": pages,
    "record": record,
    "routing": routing,
    "schema": schema,
    "state": state,
    "store": store,
}
# | `owner.name` | 2.5 s | why |
NUMBER_ROW = re.compile(r"^\| `(\w+)\.(\w+)` \| ([\d. ]+)", re.MULTILINE)
CALL_ROW = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


@pytest.mark.parametrize(("owner", "name", "text"), NUMBER_ROW.findall(PAGE))
def test_each_number_is_the_codes(owner: str, name: str, text: str) -> None:
    assert float(text.replace(" ", "")) == getattr(OWNERS[owner], name)


def test_there_are_numbers_of_each_owner() -> None:
    assert {owner for owner, _, _ in NUMBER_ROW.findall(PAGE)} == set(OWNERS)


def test_each_call_is_on_the_page() -> None:
    calls = [one.name for one in vars(schema).values() if isinstance(one, Method)]
    assert CALL_ROW.findall(PAGE) == calls
    assert f"`/manyhands/{schema.SERVICE}/{schema.MAJOR}`" in PAGE


def test_each_metric_is_on_the_page() -> None:
    named = set(re.findall(r"`(p2p_dht_\w+)(?:\{(\w+)\})?`", PAGE))
    ours = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in REGISTRY.collect()
        if metric.name.startswith("p2p_dht_")
    }
    assert {name for name, _ in named} == ours
