"""Unary and streaming calls between peers, typed and bounded, over one stream each."""

from p2p.rpc.call import RpcCall
from p2p.rpc.client import RpcClient, rpc_client
from p2p.rpc.schema import Method
from p2p.rpc.service import RpcService

__all__ = ["Method", "RpcCall", "RpcClient", "RpcService", "rpc_client"]
