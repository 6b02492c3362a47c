"""What changes while programs run: mappings, addresses, timeouts, delay, loss and rates."""

from __future__ import annotations

import select
import subprocess
import time

import pytest

from p2p.testing.netlab import Host, Link, Netlab
from tests.netlab import programs
from tests.netlab.programs import ask, line_of, start

PORT = 4001
PATIENCE_S = 20.0
SILENCE_S = 1.5


def seen(host: Host, address: str, *, patience_s: float = PATIENCE_S) -> str:
    """As whom a mirror sees a host that connects, or why it does not."""
    return line_of(start(host, programs.DIAL, address, PORT, 0, patience_s)).split()[0]


def talk(host: Host, to: Host) -> subprocess.Popen[str]:
    """A connection on which something went both ways already."""
    answerer = start(to, programs.ANSWER, to.address)
    talker = start(host, programs.TALK, to.address, line_of(answerer))
    ask(talker, 1000)
    assert float(line_of(talker)) > 0
    return talker


def is_silent(process: subprocess.Popen[str]) -> bool:
    """Whether a process says nothing, not even that it ended."""
    assert process.stdout is not None
    return not select.select([process.stdout], [], [], SILENCE_S)[0]


def test_forgotten_mappings_are_black_holes_and_new_ones_are_made(lab: Netlab) -> None:
    boot, home = lab.add_host("boot"), lab.add_router("home")
    alice = home.add_host("alice")
    assert line_of(start(boot, programs.MIRROR, PORT)) == "there"
    talker = talk(alice, boot)
    home.forget_mappings()
    ask(talker, 1000)
    assert seen(alice, boot.address) == home.address
    assert is_silent(talker)


def test_a_mapping_on_which_nothing_is_sent_expires(lab: Netlab) -> None:
    boot, home = lab.add_host("boot"), lab.add_router("home")
    home.set_timeouts(tcp_s=1)
    talker = talk(home.add_host("alice"), boot)
    time.sleep(1.5)  # the fault itself, not a wait for something
    ask(talker, 1000)
    assert is_silent(talker)


def test_addresses_change_and_nothing_reaches_the_old_ones(lab: Netlab) -> None:
    boot, home = lab.add_host("boot"), lab.add_router("home", nat="full-cone")
    alice, bob = home.add_host("alice"), home.add_host("bob")
    for host in (boot, alice):
        assert line_of(start(host, programs.MIRROR, PORT)) == "there"
    old_home, old_alice, old_boot = home.address, alice.address, boot.address
    assert alice.change_address() == alice.address != old_alice
    assert home.change_address() == home.address != old_home
    assert boot.change_address() == boot.address != old_boot
    assert seen(alice, boot.address) == home.address
    # What is open to all leads to her new address.
    assert seen(boot, home.address) == boot.address
    assert seen(bob, alice.address) == bob.address
    lost = [
        start(host, programs.DIAL, address, PORT, 0, SILENCE_S)
        for host, address in ((alice, old_boot), (boot, old_home))
    ]
    for dialer in lost:
        assert line_of(dialer) in ("TimeoutError", "OSError")


def test_a_forwarded_port_lets_in_and_moves_with_its_host(lab: Netlab) -> None:
    boot, home = lab.add_host("boot"), lab.add_router("home")
    home.add_host("bob")
    alice = home.add_host("alice")
    assert line_of(start(alice, programs.MIRROR, PORT)) == "there"
    home.forward_port(PORT, alice)
    assert seen(boot, home.address) == boot.address
    alice.change_address()
    assert seen(boot, home.address) == boot.address


def test_a_router_is_cut_and_healed_with_all_behind_it(lab: Netlab) -> None:
    boot, home = lab.add_host("boot"), lab.add_router("home", link=Link(delay_ms=1))
    alice, bob = home.add_host("alice"), home.add_host("bob")
    for host in (boot, bob):
        assert line_of(start(host, programs.MIRROR, PORT)) == "there"
    home.uplink.cut()
    assert seen(alice, boot.address, patience_s=SILENCE_S) == "TimeoutError"
    assert seen(alice, bob.address) == alice.address
    home.uplink.heal()
    assert seen(alice, boot.address) == home.address


def echoes(host: Host, to: Host, count: int, patience_s: float) -> tuple[int, float]:
    """How many of so many datagrams came back, and the shortest time there and back."""
    words = line_of(start(host, programs.DATAGRAMS, to.address, PORT, count, patience_s)).split()
    return int(words[0]), float(words[1])


def test_delay_is_what_it_is_said_to_be(lab: Netlab) -> None:
    # Wide above, since the machine may be busy, and exact below.
    boot = lab.add_host("boot", Link(delay_ms=10, jitter_ms=2))
    alice = lab.add_router("home", link=Link(delay_ms=25)).add_host("alice")
    bob = lab.add_host("bob", Link(emulated=True))
    assert line_of(start(boot, programs.DATAGRAM_MIRROR, PORT)) == "there"
    count, shortest_s = echoes(alice, boot, 10, PATIENCE_S)
    assert count == 10
    assert 2 * 0.033 <= shortest_s <= 2 * 0.035 + 0.1
    bob.uplink.change(Link(delay_ms=100))
    assert 2 * 0.108 <= echoes(bob, boot, 3, PATIENCE_S)[1] <= 2 * 0.11 + 0.1
    bob.uplink.change(Link())
    assert 2 * 0.008 <= echoes(bob, boot, 10, PATIENCE_S)[1] <= 2 * 0.01 + 0.1


def test_loss_is_what_it_is_said_to_be(lab: Netlab) -> None:
    boot = lab.add_host("boot")
    alice = lab.add_host("alice", Link(loss=0.3))
    assert line_of(start(boot, programs.DATAGRAM_MIRROR, PORT)) == "there"
    # There and back 0.7² arrive: of 200, 98 with a deviation of 7; bounds of six deviations.
    assert 56 <= echoes(alice, boot, 200, 0.02)[0] <= 140
    alice.uplink.change(Link())
    assert echoes(alice, boot, 100, PATIENCE_S)[0] == 100


def test_much_gets_through_a_link_with_delay_loss_and_rates_unharmed(lab: Netlab) -> None:
    boot = lab.add_host("boot", Link(delay_ms=10))
    link = Link(delay_ms=5, jitter_ms=1, up_mbit_per_s=80, down_mbit_per_s=80, loss=0.001)
    talker = talk(lab.add_router("home", link=link).add_host("alice"), boot)
    ask(talker, 4_000_000)
    # At least the time that the bytes take one way at that rate.
    assert float(line_of(talker)) > 0.35


def test_what_cannot_be_is_refused(lab: Netlab) -> None:
    home, plain = lab.add_router("home"), lab.add_host("alice")
    with pytest.raises(ValueError, match="emulated=True"):
        plain.uplink.change(Link(loss=0.1))
    with pytest.raises(ValueError, match="no kind of NAT"):
        lab.add_router("odd", nat="conical")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in the internet itself"):
        home.add_router("inner", nat="none")
    with pytest.raises(ValueError, match="in use on the way"):
        home.add_router("inner", addresses="192.168.1.0/25")
    with pytest.raises(ValueError, match="no new name"):
        lab.add_host("home")
    assert home.add_router("inner").add_host("bob").address == "192.168.2.2"
