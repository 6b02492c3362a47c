"""Strangers at a private swarm's door: what they are told, and what they cannot outwait."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2p import Identity, NodeConfig, UnreachableError, open_node
from p2p.access import SLACK_S, DenyList, Token, read_token, sign_token, token_text
from p2p.host.access import ACCESS_PROTOCOL, Hello, Listing
from p2p.host.noise import NoiseSession
from p2p.host.swarm_key import write_swarm_key
from p2p.wire import Message, decode_untrusted, encode
from tests.p2p.host.peers import raw_connection, until
from tests.p2p.host.receiving import next_plains
from tests.p2p.host.test_access import AUTHORITY, Member, open_served, talk

YAMUX = "/yamux/1.0.0"


def sized(message: Message) -> bytes:
    body = encode(message)
    return len(body).to_bytes(4, "big") + body


async def all_that_comes(session: NoiseSession) -> bytes:
    """What the node says until it hangs up."""
    said = b""
    while plains := await next_plains(session):
        said += b"".join(plains)
    return said


async def exchange(session: NoiseSession, token: Token) -> DenyList | None:
    """Show a token as a member would; returns the list that came back."""
    await session.send([sized(Hello(token, 0)), sized(Listing())])
    said = b""
    bodies: list[bytes] = []
    while len(bodies) < 2:
        plains = await next_plains(session)
        assert plains, "hung up"
        said += b"".join(plains)
        while len(said) >= 4 and len(said) >= (end := 4 + int.from_bytes(said[:4], "big")):
            bodies.append(said[4:end])
            said = said[end:]
    assert decode_untrusted(bodies[0], Hello, size_bytes_max=4_096).token.run == "run"
    return decode_untrusted(bodies[1], Listing, size_bytes_max=65_536).deny_list


@pytest.mark.parametrize("says", ["nothing", "a token of its own making"])
async def test_a_stranger_is_told_neither_our_token_nor_who_is_denied(
    says: str, tmp_path: Path
) -> None:
    bob, eve = Member(tmp_path, "bob"), Member(tmp_path, "eve")
    bob.deny(7, Identity.generate().peer_id)
    eve.admit(authority=Identity.generate())
    async with open_served(bob.config()) as node, raw_connection(node.addresses[0]) as dialer:
        session = await dialer.shake_hands()
        await dialer.agree_over(session, ACCESS_PROTOCOL)
        if says != "nothing":
            await session.send([sized(Hello(read_token(eve.token), 0)), sized(Listing())])
        await session.send_eof()
        assert await all_that_comes(session) == b""


async def test_who_is_denied_between_its_token_and_its_first_stream_stays_out(
    tmp_path: Path,
) -> None:
    alice, bob, eve = (Member(tmp_path, name) for name in ("alice", "bob", "eve"))
    identity = Identity.load_or_create(eve.key)
    async with (
        open_served(bob.config()) as node,
        raw_connection(node.addresses[0], identity) as dialer,
    ):
        session = await dialer.shake_hands()
        await dialer.agree_over(session, ACCESS_PROTOCOL)
        await exchange(session, read_token(eve.token))
        # Now she waits, with the last step of the handshake in her hand.
        alice.deny(1, eve.peer_id)
        async with open_node(alice.config()) as one:
            await talk(one, node)
        await dialer.agree_over(session, YAMUX)
        # Far sooner than a connection that has begun would be given up.
        with trio.fail_after(5):
            await all_that_comes(session)
        assert eve.peer_id not in node.connected_peers


async def test_the_allow_list_is_for_those_without_tokens_not_against_those_with(
    tmp_path: Path,
) -> None:
    alice, bob, relay = Member(tmp_path, "alice"), Member(tmp_path, "bob"), Identity.generate()
    async with (
        open_served(bob.config(allow_peers=(relay.peer_id,))) as node,
        open_node(alice.config()) as member,
        raw_connection(node.addresses[0], relay) as dialer,
    ):
        await dialer.upgrade()
        await until(lambda: relay.peer_id in node.connected_peers)
        await talk(member, node)
        async with open_node() as stranger:
            with pytest.raises(UnreachableError):
                await stranger.connect_address(node.addresses[0])
            with pytest.raises(UnreachableError):
                await node.connect_address(stranger.addresses[0])


async def test_a_running_node_takes_up_a_new_deny_list(tmp_path: Path) -> None:
    alice, bob, eve = (Member(tmp_path, name) for name in ("alice", "bob", "eve"))
    bob.deny(1)
    async with (
        open_served(bob.config()) as node,
        open_node(eve.config()) as bad,
        open_node(alice.config()) as one,
    ):
        await talk(bad, node)
        bob.deny(2, eve.peer_id)
        # The next who comes makes the node look, and all learn of it.
        await talk(one, node)
        await until(lambda: eve.peer_id not in node.connected_peers)
        with pytest.raises(UnreachableError, match="taken the peer's access back"):
            await one.connect_address(bad.addresses[0])


# Whose fault it is


async def test_our_own_token_that_ended_is_named_as_the_cause(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    alice, bob = Member(tmp_path, "alice"), Member(tmp_path, "bob")
    alice.admit(ends_in_s=100)
    async with open_node(alice.config()) as one, open_served(bob.config()) as other:
        mock_clock.jump(100 + SLACK_S + 5)
        with pytest.raises(UnreachableError, match=r"our own token.*has ended"):
            await one.connect_address(other.addresses[0])


async def test_a_token_that_is_refused_there_is_named_as_the_cause(tmp_path: Path) -> None:
    alice, bob = Member(tmp_path, "alice"), Member(tmp_path, "bob")
    bob.admit(run="another")
    config = bob.config()
    assert config.access is not None
    elsewhere = replace(config, access=replace(config.access, run="another"))
    async with open_node(alice.config()) as one, open_served(elsewhere) as other:
        with pytest.raises(UnreachableError, match="hung up on our token"):
            await one.connect_address(other.addresses[0])
        with pytest.raises(UnreachableError, match="hung up on our token"):
            await other.connect_address(one.addresses[0])


async def test_who_is_not_wanted_is_told_that_much(tmp_path: Path) -> None:
    alice, bob = Member(tmp_path, "alice"), Member(tmp_path, "bob")
    bob.deny(1, alice.peer_id)
    async with open_node(alice.config()) as one, open_served(bob.config()) as other:
        with pytest.raises(UnreachableError, match="does not want us"):
            await one.connect_address(other.addresses[0])


async def test_a_token_that_begins_later_lets_nobody_in_yet(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    alice, bob = Member(tmp_path, "alice"), Member(tmp_path, "bob")
    async with open_node(alice.config()) as one, open_served(bob.config()) as other:
        begins_s = time.time() + SLACK_S + 1_000
        token = sign_token(
            AUTHORITY,
            run="run",
            peer_id=alice.peer_id,
            role="trainer",
            not_before_s=begins_s,
            expires_at_s=begins_s + 100,
        )
        alice.token.write_text(token_text(token))
        with pytest.raises(UnreachableError, match=r"our own token.*only in"):
            await one.connect_address(other.addresses[0])
        with pytest.raises(UnreachableError, match="only in"):
            await other.connect_address(one.addresses[0])
        mock_clock.jump(1_010)
        await talk(one, other)


@pytest.mark.parametrize("of_bob", ["another key", "no key"])
async def test_a_swarm_key_that_differs_is_named_as_the_cause(of_bob: str, tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        write_swarm_key(tmp_path / name)
    path = tmp_path / "bob" if of_bob == "another key" else None
    async with (
        open_node(NodeConfig(swarm_key_path=tmp_path / "alice")) as alice,
        open_served(NodeConfig(swarm_key_path=path)) as bob,
    ):
        with pytest.raises(UnreachableError, match="swarm key"):
            await alice.connect_address(bob.addresses[0])


async def test_a_private_swarm_is_named_as_the_cause_to_who_shows_nothing(tmp_path: Path) -> None:
    bob = Member(tmp_path, "bob")
    async with open_node() as stranger, open_served(bob.config()) as node:
        with pytest.raises(UnreachableError, match="does not speak"):
            await stranger.connect_address(node.addresses[0])
