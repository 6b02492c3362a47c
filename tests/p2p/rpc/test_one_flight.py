"""A small call costs one round trip: all that the caller has to say leaves at once."""

import pytest
from trio.testing import wait_all_tasks_blocked

from p2p import Message, Method, NodeConfig, PeerId, RpcService, open_node, rpc_client
from p2p.host.noise import NoiseSession


class Ask(Message, frozen=True):
    """A small request, and its answer."""

    text: str


ASK = Method("ask", Ask, Ask)


async def test_selection_request_and_half_close_leave_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[NoiseSession] = []
    send_sealed = NoiseSession.send_sealed

    async def send_and_note(session: NoiseSession, sealed: memoryview) -> float | None:
        sent.append(session)
        return await send_sealed(session, sealed)

    monkeypatch.setattr(NoiseSession, "send_sealed", send_and_note)
    flights: list[int] = []
    async with open_node() as bob, open_node(NodeConfig(client_mode=True)) as alice:
        service = RpcService("ask")
        callers_session: list[NoiseSession] = []

        async def answer(caller: PeerId, request: Ask) -> Ask:
            flights.append(sent.count(callers_session[0]))
            return request

        service.unary(ASK, answer)
        async with service.serving(bob):
            await alice.connect_address(bob.addresses[0])
            [[connection]] = alice._transport._connections.values()  # type: ignore[attr-defined]
            callers_session.append(connection.muxer._noise)
            client = rpc_client(alice, "ask")
            for _ in range(5):
                # Let the last words of the connection, or of the call before, go out first.
                await wait_all_tasks_blocked(0.01)
                before = sent.count(callers_session[0])
                await client.call(bob.peer_id, ASK, Ask("hello"), timeout_s=10)
                assert flights[-1] == before + 1
