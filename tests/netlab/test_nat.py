"""Each kind of NAT does what its name says, seen by plain sockets on both sides of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from p2p.testing.netlab import NAT_KINDS, Host, Netlab, Router, Situation, open_netlab
from tests.netlab import programs
from tests.netlab.programs import ask, line_of, start

SITUATIONS: tuple[Situation, ...] = ("public", *NAT_KINDS)
PORT = 4001
# Who is kept out hears nothing. That is as long as a second try of TCP takes, and more.
SILENCE_S = 1.5
PATIENCE_S = 8.0
OPEN = {"public", "none", "full-cone"}


@dataclass
class World:
    """A host in each situation and two public ones that look on, each with a mirror."""

    lab: Netlab
    hosts: dict[Situation, Host] = field(default_factory=dict)

    def outside(self, situation: Situation) -> str:
        """The address that others see of a host in a situation."""
        host = self.hosts[situation]
        if situation in ("public", "none", "firewall"):
            return host.address
        return self.lab.routers[f"{host.name}-router"].address


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """All situations in one internet, since what they do to each other is nothing."""
    with open_netlab() as lab:
        made = World(lab)
        onlookers = [lab.add_host("boot"), lab.add_host("onlooker")]
        for situation in SITUATIONS:
            made.hosts[situation] = lab.add_host_in(situation, f"in-{situation}")
        mirrors = [
            start(host, programs.MIRROR, PORT) for host in (*onlookers, *made.hosts.values())
        ]
        for mirror in mirrors:
            assert line_of(mirror) == "there"
        yield made


def dial(
    host: Host,
    address: str,
    *,
    port: int = PORT,
    local_port: int = 0,
    patience_s: float = SILENCE_S,
) -> subprocess.Popen[str]:
    """Connect to a mirror, and hold on."""
    return start(host, programs.DIAL, address, port, local_port, patience_s)


def seen(dialer: subprocess.Popen[str]) -> tuple[str, int]:
    """As whom a mirror saw who connected."""
    address, port = line_of(dialer).split()
    return address, int(port)


@dataclass(frozen=True)
class Outcome:
    """What became of a host's connections from one port, and of a stranger's to it."""

    to_boot: str
    to_onlooker: str
    strangers: str


@pytest.fixture(scope="module")
def outcomes(world: World) -> dict[Situation, Outcome]:
    """What everybody got, tried at the same time, since most of it is waiting."""
    boot, onlooker = world.lab.hosts["boot"], world.lab.hosts["onlooker"]
    out = {
        situation: [
            dial(host, to.address, local_port=PORT, patience_s=PATIENCE_S)
            for to in (boot, onlooker)
        ]
        for situation, host in world.hosts.items()
    }
    heard = {situation: [line_of(one) for one in both] for situation, both in out.items()}
    # The onlooker is known at its own port only: from another one it is a stranger.
    strangers = {situation: dial(onlooker, world.outside(situation)) for situation in heard}
    return {
        situation: Outcome(both[0], both[1], line_of(strangers[situation]))
        for situation, both in heard.items()
    }


@pytest.mark.parametrize("situation", SITUATIONS)
def test_mapping_and_filtering(
    world: World, outcomes: dict[Situation, Outcome], situation: Situation
) -> None:
    outcome = outcomes[situation]
    (address, port), (other_address, other_port) = (
        said.split() for said in (outcome.to_boot, outcome.to_onlooker)
    )
    assert address == other_address == world.outside(situation)
    if situation == "symmetric":
        assert len({port, other_port, str(PORT)}) == 3
    else:
        assert port == other_port == str(PORT)
    expected = world.lab.hosts["onlooker"].address if situation in OPEN else "TimeoutError"
    assert outcome.strangers.split()[0] == expected


@pytest.mark.parametrize(
    ("situation", "other", "meet"),
    [
        ("port-restricted", "carrier-grade", True),
        ("upnp", "firewall", True),
        ("symmetric", "port-restricted", False),
    ],
)
def test_two_who_connect_at_once(
    world: World, situation: Situation, other: Situation, meet: bool
) -> None:
    port = 5001 + SITUATIONS.index(situation)
    patience_s = PATIENCE_S if meet else SILENCE_S
    meeting = [
        start(world.hosts[mine], programs.MEET, world.outside(theirs), port, patience_s)
        for mine, theirs in ((situation, other), (other, situation))
    ]
    for one in meeting:
        assert line_of(one) == "there"
    for one in meeting:
        ask(one, "now")
    expected = "hello" if meet else "TimeoutError"
    assert [line_of(one) for one in meeting] == [expected] * 2


def test_a_carrier_has_a_network_of_its_own_between(world: World) -> None:
    home = world.lab.routers["in-carrier-grade-home"]
    assert home.address == "100.64.0.2"
    assert home.parent is world.lab.routers["in-carrier-grade-router"]
    assert world.hosts["carrier-grade"].address == "192.168.1.2"


@pytest.mark.parametrize(("protocol", "port"), [("nat-pmp", 6001), ("upnp", 6002)])
def test_a_gateway_opens_ports_for_who_asks(world: World, protocol: str, port: int) -> None:
    host, boot = world.hosts["upnp"], world.lab.hosts["boot"]
    assert line_of(start(host, programs.MIRROR, port)) == "there"
    if protocol == "nat-pmp":
        assert line_of(start(host, programs.MAP_NAT_PMP, "192.168.1.1", port, port)) == f"0 {port}"
    else:
        assert line_of(start(host, programs.MAP_UPNP, port)) == world.outside("upnp")
    dialer = dial(boot, world.outside("upnp"), port=port, patience_s=PATIENCE_S)
    assert seen(dialer)[0] == boot.address


def test_a_gateway_behind_a_carrier_maps_nothing(lab: Netlab) -> None:
    isp = lab.add_router("isp", nat="carrier-grade")
    host = isp.add_router("home", nat="upnp").add_host("alice")
    result, _port = line_of(start(host, programs.MAP_NAT_PMP, "192.168.1.1", PORT, PORT)).split()
    assert result == "3"  # network failure (RFC 6886, 3.5)


def office(lab: Netlab) -> Router:
    """Where only the web is allowed."""
    return lab.add_router("office", outbound_ports=(80, 443))


def test_an_office_lets_out_what_looks_like_the_web(lab: Netlab) -> None:
    boot, host = lab.add_host("boot"), office(lab).add_host("alice")
    for port in (443, PORT):
        assert line_of(start(boot, programs.MIRROR, port)) == "there"
    assert line_of(start(boot, programs.DATAGRAM_MIRROR, 443)) == "there"
    blocked = dial(host, boot.address)
    datagrams = start(host, programs.DATAGRAMS, boot.address, 443, 2, 0.5)
    assert seen(dial(host, boot.address, port=443, patience_s=PATIENCE_S))[0] == "5.6.7.3"
    assert line_of(blocked) == "TimeoutError"
    assert line_of(datagrams) == "0 0.0"


def test_a_router_may_block_datagrams_only(lab: Netlab) -> None:
    boot = lab.add_host("boot")
    home = lab.add_router("home", blocks_udp=True)
    host = home.add_host("alice")
    assert line_of(start(boot, programs.MIRROR, PORT)) == "there"
    assert line_of(start(boot, programs.DATAGRAM_MIRROR, PORT)) == "there"
    datagrams = start(host, programs.DATAGRAMS, boot.address, PORT, 2, 0.5)
    assert seen(dial(host, boot.address, patience_s=PATIENCE_S))[0] == home.address
    assert line_of(datagrams) == "0 0.0"


def test_one_network_inside_has_multicast_and_no_way_round_through_the_outside(
    lab: Netlab,
) -> None:
    home = lab.add_router("home", nat="full-cone")
    alice, bob = home.add_host("alice"), home.add_host("bob")
    stranger = lab.add_router("other").add_host("carol")
    for host in (alice, stranger):
        assert line_of(start(host, programs.MIRROR, PORT)) == "there"
    assert seen(dial(bob, alice.address, patience_s=PATIENCE_S))[0] == bob.address
    # The cone is open to all outside, but not from the inside to its own outside.
    assert seen(dial(stranger, home.address, patience_s=PATIENCE_S))[0] == "5.6.7.3"
    assert line_of(dial(bob, home.address)) in ("ConnectionRefusedError", "TimeoutError")
    # The other home has the same addresses, and is another network.
    hearers = [start(host, programs.HEAR, host.address) for host in (alice, stranger)]
    for hearer in hearers:
        assert line_of(hearer) == "there"
    assert line_of(start(bob, programs.SHOUT)) == "done"
    assert line_of(hearers[0]) == f"anybody? {bob.address}"
    assert hearers[1].poll() is None
