"""mDNS between real nodes of this machine, over the loopback interface only."""

import os
import socket

import pytest
import trio

from p2p import ListenError, Node, NodeConfig, open_mdns, open_node
from p2p.discovery.dns_message import encode_question
from p2p.discovery.lan import service_name

# Other tests may run beside on this machine, and hear all that is said on it.
RUN = f"digits-{os.getpid()}"


async def until_found(alice: Node, bob: Node) -> None:
    with trio.fail_after(20):
        while not alice.addresses_of(bob.peer_id):  # noqa: ASYNC110 - a node tells nobody
            await trio.sleep(0.01)


async def test_two_nodes_of_one_run_find_each_other() -> None:
    async with (
        open_node() as alice,
        open_node() as bob,
        open_mdns(alice, run=RUN) as of_alice,
        open_mdns(bob, run=RUN) as of_bob,
    ):
        with trio.fail_after(20):
            await of_alice.wait_found()
            await of_bob.wait_found()
        assert of_alice.peers == {bob.peer_id: bob.addresses}
        assert of_bob.peers == {alice.peer_id: alice.addresses}
        await alice.connect(bob.peer_id)
        assert alice.connected_peers == (bob.peer_id,)


async def test_who_leaves_takes_its_word_back() -> None:
    async with open_node() as alice, open_mdns(alice, run=RUN) as of_alice:
        async with open_node() as bob, open_mdns(bob, run=RUN):
            with trio.fail_after(20):
                await of_alice.wait_found()
        with trio.fail_after(20):
            while of_alice.peers:  # noqa: ASYNC110 - it is no event
                await trio.sleep(0.01)


async def test_other_runs_are_not_found() -> None:
    async with (
        open_node() as alice,
        open_node() as bob,
        open_node() as carol,
        open_mdns(bob, run=f"not-{RUN}"),
        open_mdns(alice, run=RUN) as of_alice,
        open_mdns(carol, run=RUN),
    ):
        with trio.fail_after(20):
            await of_alice.wait_found()
        assert list(of_alice.peers) == [carol.peer_id]


async def test_the_option_of_a_node_finds_any_peer() -> None:
    config = NodeConfig(mdns=True)
    async with open_node(config) as alice, open_node(config) as bob:
        await until_found(alice, bob)
        await until_found(bob, alice)


async def test_noise_on_the_wire_does_no_harm() -> None:
    async with open_node() as alice, open_node() as bob, open_mdns(alice) as of_alice:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noisy:
            here = socket.inet_aton("127.0.0.1")
            noisy.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            for data in (b"", b"x", bytes(9_000), encode_question(service_name(None))[:-3]):
                noisy.sendto(data, ("224.0.0.251", 5353))
        async with open_mdns(bob):
            with trio.fail_after(20):
                await of_alice.wait_found()


async def test_a_port_that_is_not_shared_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as greedy:
        try:
            greedy.bind(("", 5353))
        except OSError:
            pytest.skip("a program of this machine listens to mDNS already")
        async with open_node() as alice:
            with pytest.raises(ListenError, match="5353"):
                async with open_mdns(alice):
                    pass
