"""The doctor's words in each situation: the verdict, what was seen, and what to do."""

import re
from collections import Counter
from io import StringIO
from typing import get_args

import pytest
from rich.console import Console

from tests.tools.doctor.situations import SITUATIONS, WELL, report
from tools.doctor.check import Check, Verdict
from tools.doctor.command import show
from tools.doctor.diagnosis import diagnose, short_verdict
from tools.doctor.facts import Facts, outcome_of

VERDICTS = get_args(Verdict)
# Situation, check, its verdict, words of the evidence, words of the advice.
SAID = [
    ("public", "reachability", "well", "/ip4/5.6.7.1/tcp/31337: reachable (3 peers", ""),
    ("public", "NAT", "well", "Nothing stands between", ""),
    ("public", "port mapping", "well", "not needed", ""),
    ("public", "relays", "well", "not needed", ""),
    ("public", "network", "well", "192.168.1.5 on eth0", ""),
    ("public", "bandwidth", "well", "96.0 Mbit/s down and 20.0 Mbit/s up", ""),
    ("public", "clock", "well", "within 1 s of one peer's clock", ""),
    ("public", "entry", "well", "in 30 ms", ""),
    ("public", "listen ports", "well", "/ip4/0.0.0.0/tcp/31337", ""),
    ("public", "identity", "well", "Nobody else uses it", ""),
    ("public", "versions", "well", "Peers: 1 × manyhands 0.1", ""),
    ("router", "reachability", "well", "by hole punching", "UPnP"),
    ("router", "NAT", "well", "hole punching works", ""),
    ("router", "port mapping", "warn", "192.168.1.1 speaks none of PCP", "TCP port 31337 to"),
    ("router", "relays", "well", "2 relays: …oWRelay1 (20 ms)", ""),
    ("router with UPnP", "reachability", "well", "Others can connect", ""),
    ("router with UPnP", "port mapping", "well", "tcp/31337 on to us (UPNP)", ""),
    ("router with UPnP", "NAT", "well", "Behind a router", ""),
    ("router without relays", "relays", "warn", "No relay was found", "manyhands node --relay"),
    ("router without relays", "reachability", "warn", "can only dial others", "UPnP"),
    ("one relay", "relays", "warn", "through one relay", "spare"),
    ("symmetric", "NAT", "warn", "(symmetric)", "a phone's network"),
    ("symmetric", "reachability", "warn", "only with peers that can be", "UPnP"),
    ("carrier-grade", "NAT", "warn", "carrier-grade NAT", "Ask your provider"),
    ("carrier-grade", "port mapping", "warn", "outside address is 100.64.0.7", "VPN"),
    ("double NAT", "NAT", "warn", "two routers in a row", "bridge or access-point mode"),
    ("double NAT", "port mapping", "warn", "has no outer address", "on both"),
    ("router", "reachability", "well", "5.6.7.1/tcp/31337: not reachable (", "than 5.6.7.1, a"),
    ("firewall", "NAT", "warn", "address is a public one", "Let TCP port 31337 in"),
    ("firewall", "reachability", "well", "by hole punching", "through the firewall"),
    ("firewall", "port mapping", "well", "not needed", ""),
    ("client", "reachability", "warn", "--client-mode", "leave the option out"),
    ("small swarm", "reachability", "unknown", "Too few peers", "Name more peers"),
    ("small swarm", "NAT", "unknown", "Too few peers", ""),
    ("small swarm", "port mapping", "unknown", "No router answered", ""),
    ("small swarm", "relays", "unknown", "not known yet", ""),
    ("no network", "network", "ill", "no network", "cable"),
    ("no network", "entry", "ill", "without a network", "Connect this computer"),
    ("nobody named", "entry", "unknown", "No initial peer was named", "--initial-peers"),
    ("nobody named", "clock", "unknown", "No peer", ""),
    ("nobody named", "bandwidth", "unknown", "No peer", ""),
    ("name", "entry", "ill", "/dns4/exmaple.org/tcp/31337 leads to no address", "spelt"),
    ("refused", "entry", "ill", "nothing listens at that port", "whether the node runs"),
    ("silent", "entry", "ill", "Nothing comes back from /ip4/5.6.7.8/tcp/31337", "port 443"),
    ("impostor", "entry", "ill", "Another peer", "new identity"),
    ("swarm key", "entry", "ill", "private", "--private"),
    ("no route", "entry", "ill", "no way from here", "access to the internet"),
    ("strange", "entry", "ill", "handshake failed", "--verbose"),
    ("web only", "entry", "warn", "ports of the web answer (/ip4/5.6.7.9/tcp/443)", "port 443"),
    ("one of two", "entry", "well", "1 of 2 initial peers", ""),
    ("clock", "clock", "warn", "2 hours behind one peer's clock", "timedatectl"),
    ("in use elsewhere", "identity", "ill", "at /ip4/9.9.9.9/tcp/31337", "--identity other.key"),
    ("in use here", "identity", "warn", "runs already", "leave it running"),
    ("open key", "identity", "ill", "Other users of this computer", "chmod 600 node.key"),
    ("no key", "identity", "ill", "node.key is not a key file", "move this one away"),
    ("new key", "identity", "well", "made at start", ""),
    ("port taken", "listen ports", "ill", "in use by nginx (process 7)", "another port"),
    ("port of another user", "listen ports", "ill", "a program of another user", "another port"),
    ("port forbidden", "listen ports", "ill", "rights", "from 1024 up"),
    ("port elsewhere", "listen ports", "ill", "no address of this computer", "0.0.0.0"),
    ("running already", "listen ports", "warn", "manyhands (process 7)", "Leave it running"),
    ("slow", "bandwidth", "warn", "0.4 Mbit/s up", "cable"),
    ("not measured", "bandwidth", "unknown", "as you asked", ""),
    ("busy", "bandwidth", "unknown", "others measure now", ""),
    ("foreign peer", "versions", "well", "1 × go-libp2p/0.38, 1 × manyhands 0.1", ""),
    ("foreign peer", "clock", "well", "within 1 s of one peer's clock", ""),
    ("other version", "versions", "warn", "manyhands 0.2.0", "Update"),
]  # fmt: skip


def check_of(facts: Facts, name: str) -> Check:
    (check,) = (one for one in diagnose(facts).checks if one.name == name)
    return check


@pytest.mark.parametrize(
    ("situation", "name", "verdict", "evidence", "advice"),
    SAID,
    ids=[f"{situation}: {name}" for situation, name, *_ in SAID],
)
def test_what_is_said(situation: str, name: str, verdict: str, evidence: str, advice: str) -> None:
    check = check_of(SITUATIONS[situation], name)
    assert check.verdict == verdict, check
    assert evidence in check.evidence
    assert advice in check.advice
    assert advice or not check.advice


def test_every_situation_is_spoken_of() -> None:
    assert {situation for situation, *_ in SAID} == set(SITUATIONS)


CANNOT = {
    "no network", "name", "refused", "silent", "impostor", "swarm key", "no route", "strange",
    "in use elsewhere", "open key", "no key", "port taken", "port of another user",
    "port forbidden", "port elsewhere",
}  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_whole_is_ill_as_its_parts_are(situation: str) -> None:
    diagnosis = diagnose(SITUATIONS[situation])
    assert diagnosis.can_take_part == (situation not in CANNOT)
    assert len(diagnosis.checks) == 11
    for check in diagnosis.checks:
        # Whole sentences; whoever is told of an ill is told what to do.
        assert check.evidence.endswith("."), check
        assert check.advice or check.verdict != "ill"
    assert diagnosis.next_step
    assert diagnosis.can_take_part != ("cannot take part" in diagnosis.summary)


@pytest.mark.parametrize(
    ("situation", "summary", "next_step"),
    [
        ("public", "others reach it directly", "train digits --initial-peers /ip4/5.6.7.8"),
        ("router", "through relays and by hole punching", "On the router's page"),
        ("symmetric", "others reach it through relays.", "On the router's page"),
        ("router without relays", "do not reach it unasked", "\nTo do better: "),
        ("small swarm", "is not known yet", "manyhands train"),
        ("client", "nobody dials it", "manyhands train"),
        ("nobody named", "the way to others is untested", "--initial-peers"),
        ("no network", "see network and entry", "Plug in the cable"),
        ("silent", "see entry", "firewall"),
        ("in use elsewhere", "see identity", "Stop the other one"),
    ],
)  # fmt: skip
def test_it_ends_with_what_to_do(situation: str, summary: str, next_step: str) -> None:
    diagnosis = diagnose(SITUATIONS[situation])
    assert summary in diagnosis.summary
    assert next_step in diagnosis.next_step


def test_addresses_that_are_not_for_outsiders_are_left_out() -> None:
    evidence = check_of(SITUATIONS["router"], "reachability").evidence
    assert "192.168.1.5" not in evidence
    assert "127.0.0.1" not in evidence


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_narrow_terminal_shows_words_under_each_other(situation: str) -> None:
    screen = Console(file=StringIO(), force_terminal=True, width=80, soft_wrap=True, no_color=True)
    diagnosis = diagnose(SITUATIONS[situation])
    show(diagnosis, screen)
    file = screen.file
    assert isinstance(file, StringIO)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    table, _, rest = shown.removeprefix("\n").partition("\n\n")
    lines = table.splitlines()
    # Each line begins with a verdict or is indented; only what cannot be broken is longer.
    indent = " " * 23
    assert all(line.startswith(indent) or line.split()[0] in VERDICTS for line in lines)
    assert all(len(line) <= 80 or len(line.split()[-1]) > 40 for line in lines), lines
    assert rest.splitlines()[1:] == diagnosis.next_step.splitlines()
    # Nobody is told the same deed twice.
    advice = [check.advice for check in diagnosis.checks if check.advice]
    assert table.count("→") == len(set(advice))


def test_a_swarm_on_this_machine_needs_no_network() -> None:
    here = Facts(
        key=WELL.key,
        interfaces=WELL.interfaces[:1],
        entries=(type(WELL.entries[0])(address="/ip4/127.0.0.1/tcp/7/p2p/x", outcome="answered"),),
    )
    assert check_of(here, "network").verdict == "warn"
    assert diagnose(here).can_take_part


@pytest.mark.parametrize(
    ("cause", "outcome"),
    [
        ("connection refused (nothing listens there)", "refused"),
        ("no answer (a firewall, or nobody there)", "silent"),
        ("no answer in 10 s", "silent"),
        ("no route to the network", "no-route"),
        ("Network is unreachable", "no-route"),
        ("Temporary failure in name resolution", "name"),
        ("Name or service not known", "name"),
        ("not a host name", "name"),
        ("impostor: 12D3KooW is there", "impostor"),
        ("the other side hung up on our swarm key", "kept-out"),
        ("the peer does not want us", "kept-out"),
        ("something else", "other"),
    ],
)
def test_causes_are_sorted(cause: str, outcome: str) -> None:
    assert outcome_of(cause) == outcome


def test_a_node_says_where_it_stands_in_short() -> None:
    public, closed = SITUATIONS["public"].report, SITUATIONS["carrier-grade"].report
    assert public is not None
    assert closed is not None
    assert short_verdict(public) == ("Others can connect to it from outside.", "")
    sentence, advice = short_verdict(closed)
    assert "cannot connect" in sentence
    assert "Ask your provider" in advice
    assert "takes other peers" in short_verdict(report(reachability="unknown"))[0]
    assert short_verdict(report(client_mode=True)) == ("It only dials others.", "")
    here = report(addresses=("/ip4/127.0.0.1/tcp/7/p2p/x",))
    assert "--listen /ip4/0.0.0.0/tcp/31337" in short_verdict(here)[1]


def test_situations_differ() -> None:
    said = Counter(str(diagnose(facts)) for facts in SITUATIONS.values())
    assert max(said.values()) == 1
