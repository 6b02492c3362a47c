"""Two or three nodes: put, get, expire, own, restart; each error is raised once."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from p2p import AddressInvalid, Identity, Message, RecordInvalid, UnreachableError, encode
from p2p.address import CircuitAddress, parse_tcp_address
from p2p.dht import DhtConfig, SchemaValidator, StoreLimits, open_dht, owned_subkey
from p2p.testing import SimNetwork, run_sim
from tests.p2p.dht.swarms import QUICK, open_swarm


class Step(Message, frozen=True):
    number: int


async def test_a_value_put_by_one_is_got_by_another(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        bob_node, bob = await swarm.add("bob")
        report = await alice.put("colour", b"blue", ttl_s=60)
        assert report.replicas == 2
        assert report.refused == {}
        entry = await bob.get("colour")
        assert entry is not None
        assert entry.value == b"blue"
        assert 59 < entry.remaining_s <= 60
        assert entry.owner is None
        assert alice.peers == (bob_node.peer_id,)
        assert await bob.get("shape") is None


async def test_a_lone_node_is_its_own_replica(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        assert (await alice.put("k", b"v", ttl_s=60)).replicas == 1
        entry = await alice.get("k")
        assert entry is not None
        assert entry.value == b"v"


async def test_what_is_kept_lives_as_long_as_the_block(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        alice_node, alice = await swarm.add("alice")
        bob_node, bob = await swarm.add("bob")
        subkey = owned_subkey(bob_node.peer_id)
        async with bob.keeping("k", b"v", subkey=subkey, ttl_s=60) as report:
            assert report.replicas == 2
            await trio.sleep(1000)
            entry = await alice.get("k", subkey=subkey)
            assert entry is not None
            assert entry.remaining_s >= 40
        await trio.sleep(60)
        assert await alice.get("k", subkey=subkey) is None
        with pytest.raises(RecordInvalid):
            async with bob.keeping("k", b"v", subkey=owned_subkey(alice_node.peer_id), ttl_s=60):
                pass


async def test_values_expire(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        await alice.put("k", b"v", ttl_s=60)
        await trio.sleep(59)
        assert await bob.get("k") is not None
        await trio.sleep(1)
        assert await bob.get("k") is None
        assert await alice.get("k") is None


async def test_a_dictionary_gathers_subkeys_with_lives_of_their_own(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        nodes = [await swarm.add(name) for name in ("alice", "bob", "carol")]
        for index, (node, dht) in enumerate(nodes):
            subkey = owned_subkey(node.peer_id)
            await dht.put("run", b"%d" % index, subkey=subkey, ttl_s=10 * (index + 1))
        await nodes[0][1].put("run", b"free", subkey="free", ttl_s=100)
        _, bob = nodes[1]
        found = await bob.get_dictionary("run")
        assert list(found) == sorted(found)
        assert {e.owner: e.value for e in found.values()} == {
            None: b"free",
            **{node.peer_id: b"%d" % index for index, (node, _) in enumerate(nodes)},
        }
        assert await bob.get("run") is None
        await trio.sleep(15)
        assert len(await bob.get_dictionary("run")) == 3


async def test_a_new_value_is_seen_at_once_everywhere(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        nodes = [await swarm.add() for _ in range(3)]
        node, alice = nodes[0]
        subkey = owned_subkey(node.peer_id)
        sequence = 0
        for number in range(10):
            # A shorter life does not make it older: the number decides.
            report = await alice.put("k", b"%d" % number, subkey=subkey, ttl_s=60 - number)
            assert report.sequence > sequence
            sequence = report.sequence
            for _, dht in nodes:
                entry = await dht.get("k", subkey=subkey)
                assert entry is not None
                assert (entry.value, entry.sequence) == (b"%d" % number, sequence)


async def test_unsigned_values_are_replaced_by_later_expiry(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        await alice.put("k", b"long", ttl_s=60)
        report = await bob.put("k", b"short", ttl_s=30)
        assert (report.replicas, report.newer) == (0, 2)
        await bob.put("k", b"longer", ttl_s=61)
        entry = await alice.get("k")
        assert entry is not None
        assert entry.value == b"longer"


async def test_only_the_owner_writes_its_subkey(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        bob_node, _ = await swarm.add("bob")
        with pytest.raises(RecordInvalid, match="only"):
            await alice.put("k", b"v", subkey=owned_subkey(bob_node.peer_id), ttl_s=10)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"value": bytes(1001)}, "larger than 1000"),
        ({"ttl_s": 0}, "may live"),
        ({"ttl_s": 86_401}, "may live"),
        ({"key": ""}, "key"),
        ({"subkey": "é" * 65}, "subkey"),
        ({"key": "run/steps"}, "schema"),
    ],
)
async def test_what_must_not_be_stored_is_refused_here(
    options: dict[str, object], reason: str, autojump_clock: MockClock
) -> None:
    config = replace(
        QUICK,
        store=StoreLimits(value_bytes_max=1000),
        validators=(SchemaValidator(key_pattern=".*/steps", kind=Step),),
    )
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice", config)
        await alice.put("run/steps", encode(Step(3)), ttl_s=10)
        arguments: dict[str, object] = {"key": "k", "value": b"v", "ttl_s": 10}
        with pytest.raises(RecordInvalid, match=reason):
            await alice.put(**(arguments | options))  # type: ignore[arg-type]


async def test_a_signed_life_is_at_most_an_hour(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        node, alice = await swarm.add("alice")
        with pytest.raises(RecordInvalid, match="to 3600 s"):
            await alice.put("k", b"v", subkey=owned_subkey(node.peer_id), ttl_s=3601)


async def test_holders_validate_too(autojump_clock: MockClock) -> None:
    strict = replace(QUICK, validators=(SchemaValidator(key_pattern=".*/steps", kind=Step),))
    async with open_swarm() as swarm:
        bob_node, bob = await swarm.add("bob", strict)
        _, alice = await swarm.add("alice")
        report = await alice.put("run/steps", b"nonsense", ttl_s=10)
        assert report.replicas == 1
        assert "schema" in report.refused[bob_node.peer_id]
        # Nor does bob believe the copy that alice holds.
        assert await bob.get("run/steps") is None


async def test_a_restarted_owner_goes_on_above_what_it_wrote_before(
    autojump_clock: MockClock,
) -> None:
    identity = Identity.generate()
    subkey = owned_subkey(identity.peer_id)
    async with open_swarm() as swarm:
        _, bob = await swarm.add("bob")
        ahead = int((swarm.nodes[0].wall_time_s() + 600) * 1000)
        async with (
            swarm.network.open_node("alice", identity=identity) as node,
            open_dht(node, replace(QUICK, sequence_floor=ahead), swarm.initial_peers) as alice,
        ):
            first = await alice.put("k", b"before", subkey=subkey, ttl_s=600)
            assert first.sequence == ahead + 1 == alice.sequence
        await trio.sleep(30)
        async with (
            swarm.network.open_node("alice", identity=identity) as node,
            open_dht(node, QUICK, swarm.initial_peers) as alice,
        ):
            second = await alice.put("k", b"after", subkey=subkey, ttl_s=600)
            assert second.sequence == first.sequence + 1
            assert second.replicas == 2
            entry = await bob.get("k", subkey=subkey)
            assert entry is not None
            assert entry.value == b"after"


async def test_clocks_that_are_minutes_apart_do_not_matter(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        skews_s = (0.0, -290.0, 180.0, 7200.0)
        nodes = [await swarm.add(clock_skew_s=skew_s) for skew_s in skews_s]
        for node, dht in nodes:
            report = await dht.put("k", b"v", subkey=owned_subkey(node.peer_id), ttl_s=60)
            assert report.replicas == 4
        for _, dht in nodes:
            assert len(await dht.get_dictionary("k")) == 4
        await trio.sleep(60)
        for _, dht in nodes:
            assert await dht.get_dictionary("k") == {}


async def test_a_client_uses_the_dht_and_is_in_nobodys_table(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        client_node, client = await swarm.add("carol", client_mode=True)
        subkey = owned_subkey(client_node.peer_id)
        assert (await client.put("k", b"v", subkey=subkey, ttl_s=60)).replicas == 2
        entry = await bob.get("k", subkey=subkey)
        assert entry is not None
        assert entry.owner == client_node.peer_id
        assert len(client.peers) == 2
        await trio.sleep(600)
        assert client_node.peer_id not in (*alice.peers, *bob.peers)


async def test_a_client_alone_stores_nowhere(autojump_clock: MockClock) -> None:
    network = SimNetwork(0)
    async with network.open_node("carol", client_mode=True) as node, open_dht(node) as dht:
        assert (await dht.put("k", b"v", ttl_s=60)).replicas == 0
        assert await dht.get("k") is None


async def test_large_dictionaries_come_whole(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        _, alice = await swarm.add("alice")
        _, bob = await swarm.add("bob")
        values = {f"s{index:03}": bytes([index]) * 8000 for index in range(60)}
        for subkey, value in values.items():
            await alice.put("k", value, subkey=subkey, ttl_s=600)
        found = await bob.get_dictionary("k")
        assert {subkey: entry.value for subkey, entry in found.items()} == values


async def test_a_frozen_node_costs_a_second_and_then_nothing(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        nodes = [await swarm.add() for _ in range(5)]
        _, alice = nodes[0]
        await alice.put("k", b"v", ttl_s=600)
        swarm.network.freeze(nodes[3][0].peer_id)
        for patience_s in (QUICK.stall_s + 0.5, 0.5):
            with trio.fail_after(patience_s):
                assert await alice.get("absent") is None
        with trio.fail_after(0.5):
            assert (await alice.put("k2", b"v", ttl_s=600)).replicas == 4
        with trio.fail_after(0.5):
            assert await nodes[1][1].get("k") is not None


async def test_a_frozen_node_costs_a_moment_once_it_is_known_how_fast_others_are(
    autojump_clock: MockClock,
) -> None:
    async with open_swarm() as swarm:
        nodes = [await swarm.add() for _ in range(8)]
        _, alice = nodes[0]
        for index in range(8):
            await alice.put(f"k{index}", b"v", ttl_s=600)
        swarm.network.freeze(nodes[3][0].peer_id)
        for index in range(8):
            with trio.fail_after(0.3):
                assert await alice.get(f"absent{index}") is None
        # It is pinged, does not answer, and is forgotten.
        await trio.sleep(60)
        assert nodes[3][0].peer_id not in alice.peers


async def test_nobody_at_the_initial_peers_is_an_error_that_lists_them(
    autojump_clock: MockClock,
) -> None:
    network = SimNetwork(0)
    nobody = Identity.generate().peer_id
    address = f"/ip4/10.99.0.1/tcp/4001/p2p/{nobody}"
    async with network.open_node("alice") as node:
        with pytest.raises(UnreachableError, match=r"10\.99\.0\.1"):
            async with open_dht(node, QUICK, [address]):
                pass


async def test_one_living_initial_peer_is_enough(autojump_clock: MockClock) -> None:
    async with open_swarm() as swarm:
        await swarm.add("bob")
        nobody = f"/ip4/10.99.0.1/tcp/4001/p2p/{Identity.generate().peer_id}"
        async with (
            swarm.network.open_node("alice") as node,
            open_dht(node, QUICK, [nobody, *node.addresses, *swarm.initial_peers]) as alice,
        ):
            assert alice.peers == (swarm.nodes[0].peer_id,)


async def test_an_initial_peer_without_a_dht_is_no_use(autojump_clock: MockClock) -> None:
    network = SimNetwork(0)
    async with network.open_node("bob") as bob, network.open_node("alice") as node:
        with pytest.raises(UnreachableError):
            async with open_dht(node, QUICK, bob.addresses):
                pass


@pytest.mark.parametrize("address", ["nonsense", "/ip4/1.2.3.4/tcp/5"])
async def test_a_broken_initial_address_is_named(address: str, autojump_clock: MockClock) -> None:
    network = SimNetwork(0)
    async with network.open_node("alice") as node:
        with pytest.raises(AddressInvalid, match=address):
            async with open_dht(node, QUICK, [address]):
                pass


@pytest.mark.parametrize(
    "options",
    [
        {"replicas": 0},
        {"read_replicas": 6},
        {"bucket_size": 21},
        {"parallelism": 0},
        {"stall_s": 0},
    ],
)
def test_the_config_is_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        DhtConfig(**options)  # type: ignore[arg-type]


def test_who_is_reached_through_relays_only_is_a_client() -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            network.open_node("alice") as alice,
            network.open_node("bob") as bob,
            open_dht(alice) as dht,
        ):
            relay = parse_tcp_address(alice.addresses[0])
            bob._transport.set_addresses((CircuitAddress(relay),))
            assert bob.addresses == (f"{relay}/p2p-circuit/p2p/{bob.peer_id}",)
            async with open_dht(bob, initial_peers=alice.addresses) as bobs:
                assert (await bobs.put("key", b"value", ttl_s=60)).replicas > 0
                assert bobs.peers == (alice.peer_id,)
                assert dht.peers == ()

    run_sim(1, main)
