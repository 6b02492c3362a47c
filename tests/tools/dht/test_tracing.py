"""How a traced search is shown: as a tree, with a sentence of what it came to."""

from __future__ import annotations

from rich.console import Console

from p2p import Hop, HopOutcome, PeerId, Trace
from p2p.dht.key import KEY_BITS
from tools.dht.tracing import as_object, in_tree_order, shared_bits, summary, table_of


def hop(
    name: str,
    named_by: str | None,
    depth: int,
    outcome: HopOutcome = HopOutcome.CLOSER,
    cause: str = "",
) -> Hop:
    return Hop(
        peer_id=PeerId(name),
        addresses=("/ip4/127.0.0.1/tcp/1",),
        named_by=None if named_by is None else PeerId(named_by),
        depth=depth,
        distance=1 << (KEY_BITS - 1 - depth),
        asked_at_s=depth / 1000,
        took_s=0.0015,
        connected=depth > 1,
        outcome=outcome,
        named=3,
        cause=cause,
    )


HOPS = (
    hop("anna", None, 1),
    hop("bert", None, 1, HopOutcome.TIMEOUT, "5 s [red]"),
    hop("cleo", "anna", 2, HopOutcome.FOUND),
    hop("dora", "cleo", 3, HopOutcome.NONE_CLOSER),
    hop("emil", "anna", 2, HopOutcome.NOT_AWAITED),
)


def trace(*replicas: str, hops: tuple[Hop, ...] = HOPS) -> Trace:
    peers = tuple(PeerId(name) for name in replicas)
    return Trace(target=5, took_s=0.02, hops=hops, replicas=peers)


def test_each_stands_behind_the_one_that_named_it() -> None:
    order = [one.peer_id for one in in_tree_order(trace())]
    assert order == ["anna", "cleo", "dora", "emil", "bert"]


def test_the_table_shows_the_tree_and_the_answers() -> None:
    console = Console(width=120, record=True, color_system=None)
    console.print(table_of(trace("dora", "cleo"), title="A search"))
    text = console.export_text()
    lines = {
        name: line
        for line in text.splitlines()
        for name in ("anna", "cleo", "dora", "bert")
        if name in line
    }
    assert "│ anna" in lines["anna"]
    assert "│ └ cleo" in lines["cleo"]
    assert "│   └ dora" in lines["dora"]
    assert "timeout: 5 s [red]" in lines["bert"]
    assert "1.5 ms *" in lines["anna"]
    assert "found, named 3" in lines["cleo"]
    assert lines["dora"].rstrip(" │").endswith("1.")
    assert shared_bits(HOPS[0]) == 1


def test_the_summary_says_what_it_came_to() -> None:
    lagging = summary(trace("dora", "cleo"))
    assert "5 peers asked in 20.0 ms, 1 failed; the nearest was 3 deep" in lagging[0]
    assert "1 of the 2 nearest hold it" in lagging[0]
    assert "given it by the next read" in lagging[-1]
    assert "What is in it" in summary(trace("cleo"))[-1]
    assert "Nobody answered" in summary(trace())[-1]
    assert "Nobody holds it" in summary(trace("anna", hops=HOPS[:1]))[-1]


def test_all_of_it_is_in_the_object() -> None:
    content = as_object(trace("cleo"))
    assert content["target"].endswith("05")
    assert len(content["target"]) == 64
    assert content["holders"] == ["cleo"]
    assert content["hops"][1]["cause"] == "5 s [red]"
    assert content["hops"][2]["named_by"] == "anna"
