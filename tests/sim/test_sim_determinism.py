"""The same seed gives the same run, to the last event, in this process and in others."""

import hashlib
import os
import subprocess
import sys

import pytest
import trio

from p2p import (
    Message,
    Method,
    Node,
    P2PError,
    RefusedError,
    RpcService,
    rpc_client,
    short,
)
from p2p.testing import SimNetwork, run_sim

NODES = 12
CALLS = 15


class Question(Message, frozen=True):
    """Asks, and is passed on so many times."""

    number: int
    hops: int


ASK = Method("ask", Question, Question)


async def break_things(network: SimNetwork, nodes: list[Node]) -> None:
    """Slow, cut, freeze and part the peers, mend it all again, and crash one in the end."""
    for _ in range(6):
        await trio.sleep(network.rng.random() * 2)
        one, two = network.rng.sample(nodes, 2)
        network.set_link(one.peer_id, two.peer_id, latency_s=0.2, bytes_per_s=1_000)
        network.drop_connection(one.peer_id, two.peer_id)
        network.freeze(two.peer_id)
        network.partition([node.peer_id for node in nodes[::3]])
        await trio.sleep(2 + 2 * network.rng.random())
        network.thaw(two.peer_id)
        network.heal()
    network.crash(nodes[0].peer_id)


def trace_of(seed: int) -> list[str]:
    """Everything that the peers of a faulty swarm saw, in order."""
    trace: list[str] = []

    def note(node: Node, *words: object) -> None:
        trace.append(f"{trio.current_time():.9f} {short(node.peer_id)} {' '.join(map(str, words))}")

    async def main(network: SimNetwork) -> None:
        network.jitter = 1.0
        nodes: list[Node] = []

        async def live(client_mode: bool, *, task_status: trio.TaskStatus[None]) -> None:
            async with network.open_node(client_mode=client_mode) as node:

                async def answer(caller: str, question: Question) -> Question:
                    note(node, "asked", question.number, question.hops)
                    if question.number % 7 == 3:
                        raise RefusedError("busy")
                    if question.hops:
                        onward = Question(question.number, question.hops - 1)
                        return await ask(node, onward)
                    return question

                service = RpcService("trace")
                service.unary(ASK, answer)
                async with service.serving(node):
                    nodes.append(node)
                    task_status.started()
                    await trio.sleep_forever()

        async def ask(node: Node, question: Question) -> Question:
            peer = node.rng.choice([other for other in nodes if other is not node])
            node.add_addresses(peer.peer_id, peer.addresses)
            client = rpc_client(node, "trace")
            return await client.call(peer.peer_id, ASK, question, timeout_s=3)

        async def keep_asking(node: Node) -> None:
            for number in range(CALLS):
                try:
                    await ask(node, Question(number, number % 3))
                except P2PError as exc:
                    note(node, type(exc).__name__)
                else:
                    note(node, "answered", number)
                await trio.sleep(2 * node.rng.random())

        async with trio.open_nursery() as lives:
            for index in range(NODES):
                await lives.start(live, index % 4 == 3)
            async with trio.open_nursery() as nursery:
                for node in nodes:
                    nursery.start_soon(keep_asking, node)
                nursery.start_soon(break_things, network, nodes)
            lives.cancel_scope.cancel()
        assert network.handler_errors == []

    run_sim(seed, main)
    return trace


def digest_of(seed: int) -> str:
    """A short name of a trace."""
    return hashlib.sha256("\n".join(trace_of(seed)).encode()).hexdigest()


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second = trace_of(1), trace_of(1)
    assert first == second
    assert len(first) > NODES * CALLS
    # Faults and chance really took part.
    words = {line.split()[2] for line in first}
    assert words >= {"answered", "CallTimeout", "RefusedError"}


@pytest.mark.slow
def test_other_seeds_give_other_traces() -> None:
    assert len({digest_of(seed) for seed in range(5)}) == 5


@pytest.mark.slow
def test_other_processes_see_the_same_trace() -> None:
    program = "from tests.sim.test_sim_determinism import digest_of; print(digest_of(1))"
    digests = {digest_of(1)}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
