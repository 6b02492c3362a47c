"""Facts as the doctor finds them in the situations that volunteers are in."""

from dataclasses import replace

from p2p import AddressReport, Interface, NetReport, PeerId, PortMapping, RelayReport
from p2p.nat.portmap.answers import Failed, Failure
from p2p.nat.portmap.verdict import failed_problem
from tools.doctor.facts import (
    BandwidthFacts,
    EntryFacts,
    EntryOutcome,
    Facts,
    KeyFacts,
    PeerFacts,
    PortFacts,
)

ME = "12D3KooWMe"
HOME = (Interface("lo", "127.0.0.1", 8), Interface("eth0", "192.168.1.5", 24))
LISTEN = "/ip4/0.0.0.0/tcp/31337"
BOOTSTRAP = "/ip4/5.6.7.8/tcp/31337/p2p/12D3KooWBootstrap"
ON_443 = "/ip4/5.6.7.9/tcp/443/p2p/12D3KooWWeb"
OUTSIDE = AddressReport(
    f"/ip4/5.6.7.1/tcp/31337/p2p/{ME}", "observed", "public", "3 peers dialed it back"
)
CLOSED = replace(OUTSIDE, reachability="private", evidence="3 peers failed to dial it back")
AT_HOME = AddressReport(
    f"/ip4/192.168.1.5/tcp/31337/p2p/{ME}", "interface", "unknown", "It is not for outsiders."
)
LOOPBACK = replace(AT_HOME, address=f"/ip4/127.0.0.1/tcp/31337/p2p/{ME}")
MAPPING = PortMapping("upnp", "/ip4/5.6.7.1/tcp/31337", 31337, 3_600.0, None)
MUTE = failed_problem("192.168.1.1", 31337, {})
WITHOUT_ADDRESS = failed_problem(
    "192.168.1.1", 31337, {"pcp": Failed(Failure.NO_ADDRESS, "it has no outer address yet")}
)
RELAYS = tuple(
    RelayReport(PeerId(f"12D3KooWRelay{number}"), "/ip4/5.6.7.9/…", 1_800.0, 0.02)
    for number in (1, 2)
)


def report(**changes: object) -> NetReport:
    """The report of a peer behind a port-restricted router, changed."""
    plain = NetReport(
        addresses=(),
        client_mode=False,
        connections_direct=1,
        connections_punched=0,
        connections_relayed=0,
        reachability="private",
        mapping="endpoint-independent",
        behind="nat",
        details=(AT_HOME, LOOPBACK, CLOSED),
        relays=RELAYS,
        port_mapping_problem=MUTE,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def entry(
    outcome: EntryOutcome = "answered", cause: str = "", address: str = BOOTSTRAP
) -> EntryFacts:
    """What became of one initial peer."""
    round_trip_s = 0.03 if outcome == "answered" else None
    return EntryFacts(address=address, outcome=outcome, cause=cause, round_trip_s=round_trip_s)


WELL = Facts(
    key=KeyFacts(path="node.key", state="good", peer_id=ME, in_use="no"),
    ports=(PortFacts(address=LISTEN, state="free"),),
    interfaces=HOME,
    entries=(entry(),),
    peers=(
        PeerFacts(peer_id="12D3KooWBootstrap", agent="manyhands", version="0.1", clock_ahead_s=0.3),
    ),
    report=report(
        reachability="public",
        mapping="none",
        behind="nothing",
        details=(OUTSIDE,),
        relays=(),
    ),
    bandwidth=BandwidthFacts(
        peer_id="12D3KooWBootstrap", path="direct", down_bytes_per_s=12e6, up_bytes_per_s=2.5e6
    ),
    python="3.12.1",
    libp2p="0.8.1",
    manyhands="0.1.0",
)


def behind(**changes: object) -> Facts:
    """The same peer behind something."""
    return replace(WELL, report=report(**changes))


def without_entry(*entries: EntryFacts) -> Facts:
    """Nobody answers."""
    return replace(WELL, entries=entries, peers=(), report=None, bandwidth=None)


SITUATIONS: dict[str, Facts] = {
    "public": WELL,
    "router": behind(),
    "router with UPnP": behind(
        reachability="public",
        details=(replace(OUTSIDE, source="mapped"),),
        port_mapping=MAPPING,
        relays=(),
    ),
    "router without relays": behind(relays=()),
    "one relay": behind(relays=RELAYS[:1]),
    "symmetric": behind(mapping="endpoint-dependent"),
    "carrier-grade": behind(
        behind="carrier-grade-nat",
        port_mapping=replace(MAPPING, useless_because="its outside address is 100.64.0.7"),
    ),
    "double NAT": behind(behind="double-nat", port_mapping_problem=WITHOUT_ADDRESS),
    "firewall": behind(behind="firewall", mapping="none"),
    "client": behind(client_mode=True, relays=()),
    "small swarm": behind(reachability="unknown", behind="unknown", mapping="unknown", relays=()),
    "no network": replace(
        without_entry(entry("no-route", "no route to the network")), interfaces=HOME[:1]
    ),
    "nobody named": without_entry(),
    "name": without_entry(
        entry("name", "Name or service not known", "/dns4/exmaple.org/tcp/31337/p2p/12D3KooWB")
    ),
    "refused": without_entry(entry("refused", "connection refused (nothing listens there)")),
    "silent": without_entry(entry("silent", "no answer in 10 s")),
    "impostor": without_entry(entry("impostor", "impostor: 12D3KooWOther is there")),
    "swarm key": without_entry(entry("kept-out", "the other side hung up on our swarm key")),
    "no route": without_entry(entry("no-route", "no route to the host")),
    "strange": without_entry(entry("other", "handshake failed")),
    "web only": replace(behind(), entries=(entry("silent", "no answer"), entry(address=ON_443))),
    "one of two": replace(behind(), entries=(entry(), entry("refused", "refused", ON_443))),
    "clock": replace(WELL, peers=(replace(WELL.peers[0], clock_ahead_s=7_300.0),)),
    "in use elsewhere": replace(
        WELL, key=replace(WELL.key, in_use="elsewhere", places=("/ip4/9.9.9.9/tcp/31337",))
    ),
    "in use here": replace(
        WELL, key=replace(WELL.key, in_use="here", places=("/ip4/5.6.7.1/tcp/31337",))
    ),
    "open key": replace(WELL, key=KeyFacts(path="node.key", state="open")),
    "no key": replace(
        WELL, key=KeyFacts(path="node.key", state="no-key", detail="node.key is not a key file")
    ),
    "new key": replace(WELL, key=KeyFacts(path="node.key", state="missing")),
    "port taken": replace(
        WELL, ports=(PortFacts(address=LISTEN, state="taken", used_by="nginx (process 7)"),)
    ),
    "port of another user": replace(WELL, ports=(PortFacts(address=LISTEN, state="taken"),)),
    "port forbidden": replace(
        WELL, ports=(PortFacts(address="/ip4/0.0.0.0/tcp/80", state="forbidden"),)
    ),
    "port elsewhere": replace(
        WELL, ports=(PortFacts(address="/ip4/9.9.9.9/tcp/80", state="not-here"),)
    ),
    "running already": replace(
        WELL, ports=(PortFacts(address=LISTEN, state="ours", used_by="manyhands (process 7)"),)
    ),
    "slow": replace(
        WELL,
        bandwidth=BandwidthFacts(
            peer_id="12D3KooWBootstrap", path="direct", down_bytes_per_s=1e6, up_bytes_per_s=5e4
        ),
    ),
    "not measured": replace(WELL, bandwidth=None, measures=False),
    "busy": replace(
        WELL,
        bandwidth=BandwidthFacts(
            peer_id="12D3KooWBootstrap", path="direct", why_not="others measure now"
        ),
    ),
    "foreign peer": replace(
        WELL,
        peers=(
            *WELL.peers,
            PeerFacts(peer_id="12D3KooWGo", agent="go-libp2p/0.38", version="", clock_ahead_s=None),
        ),
    ),
    "other version": replace(WELL, peers=(replace(WELL.peers[0], version="0.2.0"),)),
}
