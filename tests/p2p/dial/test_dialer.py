"""The dialer: races all addresses, shares a race among callers, and names every cause."""

import socket
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p import Identity, Node, NodeConfig, PeerId, UnreachableError, open_node
from p2p.testing import SimNetwork

NOBODY = "/ip4/10.255.255.1/tcp/1"
TIMEOUT_S = 10.0


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=7)


@pytest.fixture
async def trio_of(network: SimNetwork) -> AsyncIterator[tuple[Node, Node, Node]]:
    """Alice, bob, and mute whom nothing can get through to."""
    async with (
        network.open_node("alice") as alice,
        network.open_node("bob") as bob,
        network.open_node("mute") as mute,
    ):
        network.partition([alice.peer_id, bob.peer_id], [mute.peer_id])
        yield alice, bob, mute


def at(address: str, peer_id: PeerId) -> str:
    """The same place, claimed to be this peer's."""
    return f"{address.partition('/p2p/')[0]}/p2p/{peer_id}"


async def test_dead_addresses_do_not_delay_a_live_one(
    trio_of: tuple[Node, Node, Node], autojump_clock: MockClock
) -> None:
    alice, bob, mute = trio_of
    began_at_s = trio.current_time()
    await alice.connect(bob.peer_id, [at(mute.addresses[0], bob.peer_id), NOBODY, bob.addresses[0]])
    assert trio.current_time() - began_at_s < 1
    assert alice.connections[0].address == bob.addresses[0]


async def test_every_address_has_its_cause(
    trio_of: tuple[Node, Node, Node], autojump_clock: MockClock
) -> None:
    alice, bob, mute = trio_of
    wanted = Identity.generate(alice.rng).peer_id
    tried = [at(mute.addresses[0], wanted), at(NOBODY, wanted), at(bob.addresses[0], wanted)]
    began_at_s = trio.current_time()
    with pytest.raises(UnreachableError) as caught:
        await alice.connect(wanted, tried)
    assert trio.current_time() - began_at_s == pytest.approx(TIMEOUT_S)
    causes = {attempt.address: attempt.cause for attempt in caught.value.attempts}
    assert sorted(causes) == sorted(tried)
    assert "no answer in 10 s" in causes[tried[0]]
    assert "connection refused" in causes[tried[1]]
    assert "another peer answers there" in causes[tried[2]]
    assert all(address in str(caught.value) for address in tried)


async def test_a_black_hole_costs_no_more_than_its_timeout(
    network: SimNetwork, trio_of: tuple[Node, Node, Node], autojump_clock: MockClock
) -> None:
    _, _, mute = trio_of
    async with network.open_node("hasty", dial_timeout_s=3) as hasty:
        network.partition([hasty.peer_id], [mute.peer_id])
        began_at_s = trio.current_time()
        with pytest.raises(UnreachableError, match="no answer in 3 s"):
            await hasty.connect(mute.peer_id, mute.addresses)
        assert trio.current_time() - began_at_s == pytest.approx(3)
        network.heal()
        await hasty.connect(mute.peer_id)


async def test_callers_share_one_race(
    trio_of: tuple[Node, Node, Node], autojump_clock: MockClock
) -> None:
    alice, bob, _ = trio_of
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(alice.connect, bob.peer_id, bob.addresses)
    assert len(alice.connections) == 1


async def test_one_callers_cancellation_does_not_fail_another(
    trio_of: tuple[Node, Node, Node], autojump_clock: MockClock
) -> None:
    alice, bob, _ = trio_of
    outcomes: list[str] = []
    first = trio.CancelScope()

    async def give_up() -> None:
        with first:
            await alice.connect(bob.peer_id, bob.addresses)
            outcomes.append("connected too soon")

    async def stay() -> None:
        await alice.connect(bob.peer_id, bob.addresses)
        outcomes.append("connected")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(stay)
        await trio.lowlevel.checkpoint()
        first.cancel()
    assert outcomes == ["connected"]
    assert first.cancelled_caught


async def test_all_who_share_a_lost_race_hear_of_it(
    trio_of: tuple[Node, Node, Node], autojump_clock: MockClock
) -> None:
    alice, _, mute = trio_of
    errors: list[UnreachableError] = []

    async def connect() -> None:
        with pytest.raises(UnreachableError) as caught:
            await alice.connect(mute.peer_id, mute.addresses)
        errors.append(caught.value)

    began_at_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(connect)
    assert trio.current_time() - began_at_s == pytest.approx(TIMEOUT_S)
    # Each has an error of its own: one traceback does not grow by the others'.
    assert len({id(error) for error in errors}) == 3


async def test_who_joins_a_race_with_more_addresses_gets_its_own_chance(
    trio_of: tuple[Node, Node, Node], autojump_clock: MockClock
) -> None:
    alice, bob, mute = trio_of
    async with trio.open_nursery() as nursery:

        async def connect_badly() -> None:
            with pytest.raises(UnreachableError):
                await alice.connect(bob.peer_id, [at(mute.addresses[0], bob.peer_id)])

        nursery.start_soon(connect_badly)
        await wait_all_tasks_blocked()
        await alice.connect(bob.peer_id, bob.addresses)
        assert alice.connected_peers == (bob.peer_id,)
        nursery.cancel_scope.cancel()


async def test_where_a_peer_was_reached_is_remembered(
    trio_of: tuple[Node, Node, Node], autojump_clock: MockClock
) -> None:
    alice, bob, _ = trio_of
    await alice.connect(bob.peer_id, bob.addresses)
    for port in range(1, 100):
        alice.add_addresses(bob.peer_id, [f"/ip4/10.9.9.9/tcp/{port}"])
    await alice.disconnect(bob.peer_id)
    await alice.connect(bob.peer_id)


# On real sockets


class Resolver(trio.abc.HostnameResolver):
    """Finds no host, each time in the way that it was told."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def getaddrinfo(self, *request: Any) -> NoReturn:
        if self._error is None:
            await trio.sleep_forever()
        raise self._error

    async def getnameinfo(self, *request: Any) -> NoReturn:
        raise NotImplementedError


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        UnicodeError("label too long"),
        ValueError("embedded null character"),
        OSError("strange"),
    ],
)
async def test_names_that_strangers_make_up(error: Exception) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver(error))
    peer_id = Identity.generate().peer_id
    async with open_node(NodeConfig(client_mode=True)) as node:
        for host in ("a" * 64 + ".example", "..", "-", "%00", "xn--\x7f"):
            with pytest.raises(UnreachableError) as caught:
                await node.connect(peer_id, [f"/dns/{host}/tcp/4001"])
            assert all(attempt.cause for attempt in caught.value.attempts)


@pytest.mark.parametrize("host", ["/ip4/255.255.255.255", "/ip4/224.0.0.1", "/ip6/ff02::1"])
async def test_hosts_that_nobody_can_be(host: str) -> None:
    async with open_node(NodeConfig(client_mode=True)) as node:
        with pytest.raises(UnreachableError) as caught:
            await node.connect(Identity.generate().peer_id, [f"{host}/tcp/4001"])
        assert caught.value.attempts[0].cause


async def test_a_race_ends_with_its_node() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver(None))
    async with trio.open_nursery() as nursery, open_node(NodeConfig(client_mode=True)) as node:

        async def connect() -> None:
            with pytest.raises(UnreachableError, match="closing"):
                await node.connect(Identity.generate().peer_id, ["/dns/example/tcp/1"])

        nursery.start_soon(connect)
        await wait_all_tasks_blocked()


async def test_an_impostor_on_real_sockets() -> None:
    async with open_node() as alice, open_node() as eve:
        wanted = Identity.generate().peer_id
        with pytest.raises(UnreachableError, match=f"impostor: {eve.peer_id}"):
            await alice.connect_address(at(eve.addresses[0], wanted))
        assert alice.connections == ()
