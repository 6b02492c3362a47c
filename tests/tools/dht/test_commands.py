"""The commands of `manyhands dht` against a small swarm of real nodes on loopback."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from p2p import Dht, Identity, NodeConfig, UnreachableError, open_dht, open_node, owned_subkey
from tools.dht.entrance import Entrance
from tools.dht.stats import show_stats
from tools.dht.tracing import Sought, show_trace
from tools.dht.values import PutRequest, show_get, show_put
from tools.failures import ILL, MISUSED, WELL, CommandError

NODES = 3
TERMINAL_BREAKER = b"red [red] \x1b[31m"


async def serve(addresses: list[str], ready: threading.Event, stop: threading.Event) -> None:
    """A few nodes that hold a value, a dictionary and one signed entry, until told to stop."""
    async with AsyncExitStack() as stack:
        dhts: list[Dht] = []
        for _ in range(NODES):
            config = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",), port_mapping=False)
            node = await stack.enter_async_context(open_node(config))
            dhts.append(await stack.enter_async_context(open_dht(node, initial_peers=addresses)))
            addresses[:] = addresses or node.addresses
        await dhts[0].put("value", TERMINAL_BREAKER, ttl_s=600)
        await dhts[0].put("dictionary", b"\xff\x00", subkey="bytes", ttl_s=600)
        subkey = owned_subkey(node.peer_id)
        await dhts[-1].put("dictionary", b"mine", subkey=subkey, ttl_s=600)
        ready.set()
        await trio.to_thread.run_sync(stop.wait)


@pytest.fixture(scope="module")
def entrance() -> Iterator[Entrance]:
    addresses: list[str] = []
    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=trio.run, args=(serve, addresses, ready, stop))
    thread.start()
    try:
        assert ready.wait(60)
        yield Entrance(tuple(addresses))
    finally:
        stop.set()
        thread.join()


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """The one object on stdout."""
    content: dict[str, object] = json.loads(capsys.readouterr().out)
    return content


def test_a_value_is_shown_and_cannot_steer_the_terminal(
    entrance: Entrance, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_get(entrance, "value", None, as_json=False) == WELL
    said = capsys.readouterr().out
    assert "red [red] \\x1b[31m" in said
    assert "\x1b" not in said


def test_a_dictionary_is_shown_as_json(
    entrance: Entrance, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_get(entrance, "dictionary", None, as_json=True) == WELL
    content = printed(capsys)
    assert isinstance(content["found"], list)
    plain, signed = content["found"]
    assert (plain["subkey"], plain["text"], plain["base64"]) == ("bytes", None, "/wA=")
    assert (plain["owner"], plain["sequence"]) == (None, 0)
    assert signed["text"] == "mine"
    assert signed["subkey"] == owned_subkey(signed["owner"])
    assert signed["sequence"] > 0
    assert 0 < plain["remaining_s"] <= 600


def test_nothing_there_is_said_and_exits_with_1(
    entrance: Entrance, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_get(entrance, "dictionary", "no such", as_json=True) == ILL
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"key": "dictionary", "found": []}
    assert "manyhands dht trace" in captured.err


def test_what_is_put_can_be_got(
    entrance: Entrance, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from \xff stdin")))
    request = PutRequest("new", "-", subkey="one", ttl_s=60)
    assert show_put(entrance, request, as_json=True) == WELL
    put = printed(capsys)
    assert (put["replicas"], put["subkey"], put["refused"]) == (NODES, "one", {})
    assert show_get(entrance, "new", "one", as_json=False) == WELL
    assert "from \\xff stdin" in capsys.readouterr().out
    # Whoever keeps the longer life keeps its value.
    shorter = PutRequest("new", "other", subkey="one", ttl_s=5)
    assert show_put(entrance, shorter, as_json=False) == ILL
    assert "longer --ttl" in capsys.readouterr().out


def test_a_signed_value_is_under_our_own_subkey(
    entrance: Entrance, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    key_file = tmp_path / "me.key"
    peer_id = Identity.load_or_create(key_file).peer_id
    me = Entrance(entrance.initial_peers, identity_path=key_file)
    assert show_put(me, PutRequest("signed", "1", signs=True), as_json=True) == WELL
    put = printed(capsys)
    assert put["subkey"] == owned_subkey(peer_id)
    first = put["sequence"]
    assert show_put(me, PutRequest("signed", "2", signs=True), as_json=True) == WELL
    assert isinstance(first, int)
    assert isinstance(second := printed(capsys)["sequence"], int)
    assert second > first


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (PutRequest("k", "v", subkey="s", signs=True), "--subkey cannot be another"),
        (PutRequest("k", "v", subkey="peer:me"), "only me can write"),
        (PutRequest("k", "v" * 20_000), "larger than 16384 bytes"),
        (PutRequest("", "v"), "a key has from 1"),
    ],
)
def test_what_cannot_be_stored_says_why(
    entrance: Entrance, request_: PutRequest, said: str
) -> None:
    with pytest.raises(CommandError, match=said) as caught:
        show_put(entrance, request_, as_json=True)
    assert caught.value.exit_code == MISUSED
    assert caught.value.next_step


def test_a_search_is_traced(entrance: Entrance, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_trace(entrance, Sought("dictionary", dictionary=True), as_json=True) == WELL
    trace = printed(capsys)
    assert isinstance(trace["hops"], list)
    assert {hop["peer_id"] for hop in trace["hops"]} == set(trace["replicas"])  # type: ignore[call-overload]
    assert {hop["outcome"] for hop in trace["hops"]} == {"found"}
    assert all(hop["took_ms"] > 0 and hop["named"] == NODES - 1 for hop in trace["hops"])
    assert show_trace(entrance, Sought("nobody put this"), as_json=False) == WELL
    said = capsys.readouterr().out
    assert "Nobody holds it" in said
    assert "none closer" in said


def test_nodes_say_what_they_hold(entrance: Entrance, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_stats(entrance, peers_max=10, as_json=True) == WELL
    content = printed(capsys)
    assert isinstance(content["nodes"], list)
    assert isinstance(content["together"], dict)
    assert [node["cause"] for node in content["nodes"]] == [""] * NODES
    # All three hold all there is, so each of ours is there three times.
    assert content["together"]["records"] >= 3 * NODES
    assert content["together"]["record_bytes"] > 0
    assert show_stats(entrance, peers_max=1, as_json=False) == WELL
    assert "1 nodes hold" in capsys.readouterr().out


def test_no_swarm_is_an_error_with_the_next_step() -> None:
    with pytest.raises(CommandError) as caught:
        show_get(Entrance(()), "value", None, as_json=True)
    assert (caught.value.exit_code, "--initial-peers" in caught.value.next_step) == (MISUSED, True)


def test_a_dead_initial_peer_is_an_error() -> None:
    stranger = Identity.generate().peer_id
    # Nobody listens on port 1.
    nobody = Entrance((f"/ip4/127.0.0.1/tcp/1/p2p/{stranger}",))
    with pytest.raises(UnreachableError):
        show_get(nobody, "value", None, as_json=True)
