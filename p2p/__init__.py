"""Peer-to-peer networking for trio programs: identities, connections, calls, and a DHT."""

from p2p.clock import wall_time_s
from p2p.config import NodeConfig
from p2p.dht import (
    Dht,
    DhtConfig,
    Entry,
    PutReport,
    RecordValidator,
    SchemaValidator,
    open_dht,
    owned_subkey,
)
from p2p.errors import (
    AddressInvalid,
    Attempt,
    CallTimeout,
    IdentityError,
    ListenError,
    MessageInvalid,
    P2PError,
    RecordInvalid,
    RefusedError,
    RemoteError,
    StreamBroken,
    UnreachableError,
)
from p2p.host.stream import Stream
from p2p.identity import Identity, parse_peer_id_untrusted, verify_signature
from p2p.nat import NetReport
from p2p.node import Node, open_node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short
from p2p.relay.reservations import RelayLimits
from p2p.rpc import Method, RpcCall, RpcClient, RpcService, rpc_client
from p2p.wire import Message, decode_untrusted, encode

__all__ = [
    "AddressInvalid",
    "Attempt",
    "CallTimeout",
    "Dht",
    "DhtConfig",
    "Entry",
    "Identity",
    "IdentityError",
    "ListenError",
    "Message",
    "MessageInvalid",
    "Method",
    "NetReport",
    "Node",
    "NodeConfig",
    "P2PError",
    "PeerId",
    "PutReport",
    "RecordInvalid",
    "RecordValidator",
    "RefusedError",
    "RelayLimits",
    "RemoteError",
    "RpcCall",
    "RpcClient",
    "RpcService",
    "SchemaValidator",
    "Stream",
    "StreamBroken",
    "UnreachableError",
    "decode_untrusted",
    "encode",
    "open_dht",
    "open_node",
    "open_service_nursery",
    "owned_subkey",
    "parse_peer_id_untrusted",
    "rpc_client",
    "short",
    "verify_signature",
    "wall_time_s",
]
