"""Peer-to-peer networking for trio programs: identities, connections, calls, and a DHT."""

from p2p.access import (
    deny_list_text,
    read_deny_list,
    read_token,
    sign_deny_list,
    sign_token,
    token_text,
)
from p2p.aio import Guest, open_guest
from p2p.clock import wall_time_s
from p2p.config import AccessConfig, NodeConfig
from p2p.dht import (
    Dht,
    DhtConfig,
    Entry,
    Hop,
    HopOutcome,
    PutItem,
    PutReport,
    RecordValidator,
    SchemaValidator,
    Trace,
    open_dht,
    owned_subkey,
)
from p2p.dht import Stats as DhtStats
from p2p.discovery.interfaces import interfaces
from p2p.discovery.mdns import Mdns, open_mdns
from p2p.discovery.networks import Interface
from p2p.errors import (
    AccessError,
    AddressInvalid,
    Attempt,
    CallTimeout,
    IdentityError,
    ListenError,
    MessageInvalid,
    P2PError,
    PortalClosed,
    RecordInvalid,
    RefusedError,
    RemoteError,
    StreamBroken,
    UnreachableError,
)
from p2p.held import Held
from p2p.host.stream import Path, Stream
from p2p.host.swarm_key import write_swarm_key
from p2p.host.transport import ConnectionInfo
from p2p.identity import Identity, parse_peer_id_untrusted, verify_signature
from p2p.nat import (
    AddressReport,
    Behind,
    Mapping,
    NetReport,
    PortMapping,
    Reachability,
    RelayReport,
)
from p2p.node import Node, open_node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short
from p2p.portal import CallerJobs, Portal
from p2p.probe.client import (
    Measured,
    Pinged,
    ask_about,
    measure_download,
    measure_upload,
    ping,
)
from p2p.probe.limits import BandwidthLimits
from p2p.probe.schema import Told
from p2p.relay.bulk import relayed_bytes_needed
from p2p.relay.directory import RELAYS_VALIDATOR, open_relay_directory
from p2p.relay.keeper import RelayKeeper
from p2p.relay.limits import RelayLimits
from p2p.relay.meter import Pace
from p2p.rpc import Method, RpcCall, RpcClient, RpcService, rpc_client
from p2p.wire import Message, decode_untrusted, encode

__all__ = [
    "RELAYS_VALIDATOR",
    "AccessConfig",
    "AccessError",
    "AddressInvalid",
    "AddressReport",
    "Attempt",
    "BandwidthLimits",
    "Behind",
    "CallTimeout",
    "CallerJobs",
    "ConnectionInfo",
    "Dht",
    "DhtConfig",
    "DhtStats",
    "Entry",
    "Guest",
    "Held",
    "Hop",
    "HopOutcome",
    "Identity",
    "IdentityError",
    "Interface",
    "ListenError",
    "Mapping",
    "Mdns",
    "Measured",
    "Message",
    "MessageInvalid",
    "Method",
    "NetReport",
    "Node",
    "NodeConfig",
    "P2PError",
    "Pace",
    "Path",
    "PeerId",
    "Pinged",
    "PortMapping",
    "Portal",
    "PortalClosed",
    "PutItem",
    "PutReport",
    "Reachability",
    "RecordInvalid",
    "RecordValidator",
    "RefusedError",
    "RelayKeeper",
    "RelayLimits",
    "RelayReport",
    "RemoteError",
    "RpcCall",
    "RpcClient",
    "RpcService",
    "SchemaValidator",
    "Stream",
    "StreamBroken",
    "Told",
    "Trace",
    "UnreachableError",
    "ask_about",
    "decode_untrusted",
    "deny_list_text",
    "encode",
    "interfaces",
    "measure_download",
    "measure_upload",
    "open_dht",
    "open_guest",
    "open_mdns",
    "open_node",
    "open_relay_directory",
    "open_service_nursery",
    "owned_subkey",
    "parse_peer_id_untrusted",
    "ping",
    "read_deny_list",
    "read_token",
    "relayed_bytes_needed",
    "rpc_client",
    "short",
    "sign_deny_list",
    "sign_token",
    "token_text",
    "verify_signature",
    "wall_time_s",
    "write_swarm_key",
]
