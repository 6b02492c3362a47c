"""The directory: relays announce themselves in the DHT, and who is short finds them there."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p import (
    Dht,
    Identity,
    MessageInvalid,
    Node,
    RelayLimits,
    decode_untrusted,
    encode,
    open_dht,
    owned_subkey,
)
from p2p.dht import Entry
from p2p.host.identify import PING_PROTOCOL, serve_ping
from p2p.nat.report import RelayReport
from p2p.relay.client import open_relay_client
from p2p.relay.directory import (
    ADDRESSES_MAX,
    LIFE_S,
    RELAYS_KEY,
    RELAYS_VALIDATOR,
    TAKEN_MAX,
    RelayRecord,
    announced_addresses,
    found_untrusted,
    open_relay_directory,
)
from p2p.relay.keeper import RelayKeeper, open_relay_keeper
from p2p.relay.server import open_relay_server
from p2p.testing import SimNetwork, run_sim

ME = Identity.generate(random.Random(1)).peer_id


@asynccontextmanager
async def relay_in_dht(
    network: SimNetwork, host: str, bootstrap: Node
) -> AsyncIterator[tuple[Node, Dht]]:
    async with (
        network.open_node(host=host) as relay,
        open_relay_server(relay._transport, relay.identity, RelayLimits()) as server,
        open_dht(relay, initial_peers=bootstrap.addresses) as dht,
    ):
        relay.relay_server = server
        relay.serve(PING_PROTOCOL, serve_ping)
        async with open_relay_directory(relay, dht):
            yield relay, dht


@asynccontextmanager
async def keeper_in_dht(
    network: SimNetwork, bootstrap: Node, told: list[tuple[RelayReport, ...]]
) -> AsyncIterator[tuple[Node, RelayKeeper]]:
    async with (
        network.open_node(client_mode=True) as bob,
        open_dht(bob, initial_peers=bootstrap.addresses) as dht,
        open_relay_client(bob._transport, bob.peer_id) as client,
        open_relay_keeper(bob, bob._transport, client, on_change=told.append) as keeper,
    ):
        bob.relay_keeper = keeper
        async with open_relay_directory(bob, dht):
            yield bob, keeper


@pytest.mark.slow
def test_who_is_short_of_relays_finds_them_and_holds_on() -> None:
    async def main(network: SimNetwork) -> None:
        told: list[tuple[RelayReport, ...]] = []
        async with (
            network.open_node(host="5.6.7.1") as bootstrap,
            open_dht(bootstrap) as dht,
            relay_in_dht(network, "5.6.8.1", bootstrap) as (one, _),
            relay_in_dht(network, "5.6.9.1", bootstrap) as (other, _),
            keeper_in_dht(network, bootstrap, told) as (bob, keeper),
        ):
            await trio.sleep(120)
            assert {report.peer_id for report in told[-1]} == {one.peer_id, other.peer_id}
            assert all("/p2p-circuit/p2p/" in report.address for report in told[-1])
            assert not keeper.is_short
            # The records are renewed, and the reservations refreshed.
            await trio.sleep(3 * LIFE_S)
            assert set(await dht.get_dictionary(RELAYS_KEY)) == {
                owned_subkey(one.peer_id),
                owned_subkey(other.peer_id),
            }
            assert {report.peer_id for report in keeper.reports()} == {one.peer_id, other.peer_id}
            assert all(report.expires_in_s > 1_700 for report in keeper.reports())
            # The line to one breaks: it is taken again within a minute.
            network.drop_connection(one.peer_id, bob.peer_id)
            await trio.sleep(0.1)
            assert keeper.is_short
            await trio.sleep(59)
            assert not keeper.is_short

    run_sim(3, main)


def test_only_what_the_public_can_dial_is_announced() -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            network.open_node(host="5.6.7.1") as public,
            network.open_node(host="10.0.0.1") as private,
            network.open_node(client_mode=True, host="5.6.7.2") as client,
        ):
            assert announced_addresses(public) == ("/ip4/5.6.7.1/tcp/4001",)
            assert announced_addresses(private) == ()
            assert announced_addresses(client) == ()

    run_sim(1, main)


def entry(value: bytes, owner: Identity | None) -> Entry:
    return Entry(value, 60.0, None if owner is None else owner.peer_id, 1)


def test_nonsense_in_the_directory_is_left_out() -> None:
    honest, liar, myself = Identity.generate(), Identity.generate(), Identity.generate()
    addresses = ("/ip4/5.6.7.1/tcp/1",)
    good = encode(RelayRecord(addresses))
    entries = {
        "a": entry(good, honest),
        "b": entry(b"\xc1", liar),
        "c": entry(good, None),
        "d": entry(good, myself),
        "e": entry(encode(RelayRecord(())), Identity.generate()),
        "f": entry(encode(RelayRecord(addresses * (ADDRESSES_MAX + 1))), Identity.generate()),
        "g": entry(encode(RelayRecord(("x" * 5_000,))), Identity.generate()),
    }
    found = found_untrusted(entries, myself.peer_id, random.Random(1))
    assert found == {honest.peer_id: addresses}


def test_a_flood_of_records_yields_a_random_few() -> None:
    value = encode(RelayRecord(("/ip4/5.6.7.1/tcp/1",)))
    entries = {str(n): entry(value, Identity.generate(random.Random(n))) for n in range(200)}
    looks = [found_untrusted(entries, ME, random.Random(seed)) for seed in range(2)]
    assert [len(found) for found in looks] == [TAKEN_MAX] * 2
    assert looks[0] != looks[1]


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x91\x90"])
def test_the_validator_refuses_nonsense(value: bytes) -> None:
    assert RELAYS_VALIDATOR.key_pattern == RELAYS_KEY
    with pytest.raises(MessageInvalid):
        decode_untrusted(value, RELAYS_VALIDATOR.kind, size_bytes_max=100)
