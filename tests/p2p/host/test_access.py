"""Private swarms on real connections: strangers get nothing, members all of it, to their end."""

import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2p import (
    AccessConfig,
    AccessError,
    Identity,
    Node,
    NodeConfig,
    PeerId,
    UnreachableError,
    open_node,
)
from p2p.access import SLACK_S, deny_list_text, sign_deny_list, sign_token, token_text
from p2p.host.swarm_key import read_swarm_key, write_swarm_key
from tests.p2p.host.peers import raw_connection, until
from tests.p2p.host.receiving import next_plains
from tests.p2p.worlds import PROTOCOL, echo

AUTHORITY = Identity.generate()
LIFE_S = 3_600.0


class Member:
    """A peer's files: its key, its token, perhaps a deny list."""

    def __init__(self, folder: Path, name: str) -> None:
        self.key = folder / f"{name}.key"
        self.token = folder / f"{name}.token"
        self.deny_list = folder / f"{name}.list"
        self.peer_id = Identity.load_or_create(self.key).peer_id
        self.admit()

    def admit(
        self,
        *,
        run: str = "run",
        peer_id: PeerId | None = None,
        authority: Identity = AUTHORITY,
        ends_in_s: float = LIFE_S,
    ) -> None:
        """Put a token in the file."""
        token = sign_token(
            authority,
            run=run,
            peer_id=peer_id or self.peer_id,
            role="trainer",
            not_before_s=time.time() - 10_000,
            expires_at_s=time.time() + ends_in_s,
        )
        self.token.write_text(token_text(token))

    def deny(self, number: int, *peers: PeerId) -> None:
        """Bring a deny list along."""
        listed = sign_deny_list(AUTHORITY, number=number, peers=list(peers))
        self.deny_list.write_text(deny_list_text(listed))

    def config(self, **more: object) -> NodeConfig:
        access = AccessConfig(
            authority=AUTHORITY.peer_id,
            run="run",
            token_path=self.token,
            deny_list_path=self.deny_list if self.deny_list.exists() else None,
        )
        return NodeConfig(identity_path=self.key, access=access, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def open_served(config: NodeConfig) -> AsyncIterator[Node]:
    async with open_node(config) as node:
        node.serve(PROTOCOL, echo)
        yield node


async def talk(alice: Node, bob: Node) -> None:
    await alice.connect_address(bob.addresses[0])
    stream = await alice.open_stream(bob.peer_id, PROTOCOL)
    await stream.send_all(b"hello")
    assert await stream.receive_exactly(5) == b"hello"
    await stream.aclose()


# The swarm key


async def test_members_with_one_key_meet(tmp_path: Path) -> None:
    write_swarm_key(tmp_path / "key")
    config = NodeConfig(swarm_key_path=tmp_path / "key")
    async with open_node(config) as alice, open_served(config) as bob:
        await talk(alice, bob)


@pytest.mark.parametrize("dialer", ["no key", "another key", "the key"])
async def test_a_key_that_differs_is_found_out_at_once(dialer: str, tmp_path: Path) -> None:
    for name in ("bob", "other"):
        write_swarm_key(tmp_path / name)
    of_dialer = {"no key": None, "another key": tmp_path / "other", "the key": tmp_path / "bob"}
    of_bob = None if dialer == "the key" else tmp_path / "bob"
    async with (
        open_node(NodeConfig(swarm_key_path=of_dialer[dialer])) as alice,
        open_served(NodeConfig(swarm_key_path=of_bob)) as bob,
    ):
        begun_s = trio.current_time()
        with pytest.raises(UnreachableError):
            await alice.connect_address(bob.addresses[0])
        assert trio.current_time() - begun_s < 5
        assert not bob.connections


def test_key_files_are_private_and_phrases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_swarm_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(read_swarm_key(path)) == 32
    with pytest.raises(AccessError, match="cannot make"):
        write_swarm_key(path)
    path.write_text("correct horse battery staple")
    with pytest.raises(AccessError, match="64 hexadecimal"):
        read_swarm_key(path)
    path.chmod(0o644)
    with pytest.raises(AccessError, match="chmod 600"):
        read_swarm_key(path)
    with pytest.raises(AccessError, match="cannot read"):
        read_swarm_key(tmp_path / "none")


# Tokens


async def test_members_with_tokens_meet(tmp_path: Path) -> None:
    alice, bob = Member(tmp_path, "alice"), Member(tmp_path, "bob")
    async with open_node(alice.config()) as one, open_served(bob.config()) as other:
        await talk(one, other)
        assert one.connected_peers == (bob.peer_id,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "another"},
        {"authority": Identity.generate()},
        {"peer_id": Identity.generate().peer_id},
        {"ends_in_s": -SLACK_S - 10},
    ],
    ids=["run", "forged", "borrowed", "ended"],
)
async def test_a_wrong_token_lets_nobody_in(wrong: dict[str, object], tmp_path: Path) -> None:
    alice, bob = Member(tmp_path, "alice"), Member(tmp_path, "bob")
    async with open_node(alice.config()) as one, open_served(bob.config()) as other:
        # It was good when the node opened; the file is read anew for each connection.
        alice.admit(**wrong)  # type: ignore[arg-type]
        with pytest.raises(UnreachableError):
            await one.connect_address(other.addresses[0])
        with pytest.raises(UnreachableError, match="token"):
            await other.connect_address(one.addresses[0])
        assert not one.connections
        assert not other.connections
        # Renewed, it lets the peer in without a new start.
        alice.admit()
        await talk(one, other)


async def test_a_node_does_not_open_with_a_token_that_is_no_good(tmp_path: Path) -> None:
    alice = Member(tmp_path, "alice")
    alice.admit(run="another")
    with pytest.raises(AccessError, match="for the run"):
        async with open_node(alice.config()):
            raise AssertionError


async def test_who_shows_no_token_is_answered_nothing(tmp_path: Path) -> None:
    bob = Member(tmp_path, "bob")
    async with open_served(bob.config()) as node:
        async with open_node() as stranger:
            with pytest.raises(UnreachableError):
                await stranger.connect_address(node.addresses[0])
        async with raw_connection(node.addresses[0]) as dialer:
            session = await dialer.shake_hands()
            # Yamux is refused to it: no stream, not even identify, ever exists.
            with pytest.raises(AssertionError):
                await dialer.agree_over(session, "/yamux/1.0.0")
        assert not node.connections


async def test_a_foreign_peer_on_the_allow_list_gets_in(tmp_path: Path) -> None:
    bob, relay = Member(tmp_path, "bob"), Identity.generate()
    allowed = (bob.peer_id, relay.peer_id)
    async with (
        open_served(bob.config(allow_peers=allowed)) as node,
        raw_connection(node.addresses[0], relay) as dialer,
    ):
        await dialer.upgrade()
        await until(lambda: relay.peer_id in node.connected_peers)


async def test_a_connection_ends_with_its_token(tmp_path: Path, mock_clock: MockClock) -> None:
    alice, bob = Member(tmp_path, "alice"), Member(tmp_path, "bob")
    alice.admit(ends_in_s=100)
    async with open_node(alice.config()) as one, open_served(bob.config()) as other:
        await talk(one, other)
        mock_clock.jump(100 + SLACK_S - 5)
        await talk(one, other)
        mock_clock.jump(10)
        await until(lambda: not one.connections and not other.connections)
        with pytest.raises(UnreachableError):
            await one.connect_address(other.addresses[0])


async def test_a_newer_deny_list_takes_access_back_wherever_it_comes_from(tmp_path: Path) -> None:
    alice, bob, eve = (Member(tmp_path, name) for name in ("alice", "bob", "eve"))
    async with open_served(bob.config()) as other, open_node(eve.config()) as bad:
        await talk(bad, other)
        # Alice brings the list, and bob learns it from her.
        alice.deny(2, eve.peer_id)
        async with open_node(alice.config()) as one:
            await talk(one, other)
            await until(lambda: eve.peer_id not in other.connected_peers)
            with pytest.raises(UnreachableError):
                await bad.connect_address(other.addresses[0])
            # An older list gives nothing back.
            carol = Member(tmp_path, "carol")
            carol.deny(1)
            async with open_node(carol.config()) as third:
                await talk(third, other)
                with pytest.raises(UnreachableError):
                    await bad.connect_address(other.addresses[0])


async def test_garbage_instead_of_a_token(tmp_path: Path) -> None:
    bob = Member(tmp_path, "bob")
    async with open_served(bob.config()) as node:
        for said in (b"\0\0\0\1x", b"\xff\xff\xff\xff", b"\0\0\0\0", bytes(5_000)):
            async with raw_connection(node.addresses[0]) as dialer:
                session = await dialer.shake_hands()
                await dialer.agree_over(session, "/manyhands/access/1")
                await session.send([said])
                await session.send_eof()
                while await next_plains(session):
                    pass
        await talk_as_member(tmp_path, node)


async def talk_as_member(folder: Path, node: Node) -> None:
    async with open_node(Member(folder, "alice").config()) as alice:
        await talk(alice, node)
