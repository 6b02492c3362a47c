"""Plain synchronous code, in any thread, uses the network through a portal.

python examples/threads.py
"""

import threading

from p2p import Message, Method, NodeConfig, PeerId, Portal, RpcService, open_node, rpc_client


class Numbers(Message, frozen=True):
    """Some numbers."""

    values: list[int]


ADD = Method("add", Numbers, Numbers)


async def add(caller: PeerId, request: Numbers) -> Numbers:
    """Their sum."""
    return Numbers([sum(request.values)])


def main() -> list[int]:
    """Two threads ask one node for sums."""
    service = RpcService("adder")
    service.unary(ADD, add)
    sums: list[int] = []
    # A portal is one thread with a trio loop; what was entered is left when its block ends.
    with Portal() as portal:
        server = portal.enter(open_node())
        portal.enter(service.serving(server))
        client = portal.enter(open_node(NodeConfig(client_mode=True)))
        peer_id = portal.call(client.connect_address, server.addresses[0])

        async def ask(numbers: list[int]) -> Numbers:
            adder = rpc_client(client, "adder")
            return await adder.call(peer_id, ADD, Numbers(numbers), timeout_s=10)

        def work(numbers: list[int]) -> None:
            sums.extend(portal.call(ask, numbers).values)

        threads = [threading.Thread(target=work, args=([n, n, n],)) for n in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sorted(sums)


if __name__ == "__main__":
    print("sums:", main())
