"""What an operator reads in the metrics is what happened."""

from __future__ import annotations

from prometheus_client import REGISTRY

from p2p import Message, Method, PeerId, RpcService, open_node, rpc_client


class Word(Message, frozen=True):
    text: str


ECHO = Method("echo", Word, Word)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_connections_bytes_and_calls_are_counted() -> None:
    async def echo(caller: PeerId, word: Word) -> Word:
        return word

    service = RpcService("metrics-test")
    service.unary(ECHO, echo)
    sent, received = value("p2p_sent_bytes_total"), value("p2p_received_bytes_total")
    outbound = value("p2p_connections", direction="outbound")
    async with open_node() as alice, open_node() as bob, service.serving(bob):
        await alice.connect_address(bob.addresses[0])
        text = "x" * 10_000
        for _ in range(3):
            await rpc_client(alice, "metrics-test").call(bob.peer_id, ECHO, Word(text), timeout_s=5)
        assert value("p2p_connections", direction="outbound") == outbound + 1
        # There and back, three times.
        assert value("p2p_sent_bytes_total") - sent > 6 * len(text)
        assert value("p2p_received_bytes_total") - received > 6 * len(text)
        answered = {"protocol": "/manyhands/metrics-test/1", "outcome": "answered"}
        assert value("p2p_rpc_requests_total", **answered) == 3
    assert value("p2p_connections", direction="outbound") == outbound
