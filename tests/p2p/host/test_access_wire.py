"""The bytes of access on the wire, as recorded, and proofs that do not fit their handshake."""

import hmac
import random
from pathlib import Path

import pytest

from p2p import Identity, NodeConfig
from p2p.access import DenyList, Token, sign_deny_list, sign_token
from p2p.host.access import Hello, Listing
from p2p.host.swarm_key import proof, read_swarm_key, write_swarm_key
from p2p.wire import Message, decode_untrusted, encode
from tests.p2p.host.peers import raw_connection, until
from tests.p2p.host.receiving import next_plains
from tests.p2p.host.test_access import open_served

AUTHORITY, ALICE = (Identity.generate(random.Random(seed)) for seed in range(2))
TOKEN = sign_token(
    AUTHORITY,
    run="run",
    peer_id=ALICE.peer_id,
    role="trainer",
    not_before_s=1_000_000,
    expires_at_s=1_003_600,
)
DENIED = sign_deny_list(AUTHORITY, number=3, peers=[ALICE.peer_id])
TOKEN_BYTES = (
    "97d934313244334b6f6f57535a656f524b436135767a5776355537366e42555a347a36487966425257683672"
    "6266394669465a75636546a372756ed934313244334b6f6f574b63486450613365615a786f62714a58446433"
    "72575a415539664d4638694b57476d5238447a7944635a6669a7747261696e6572cb412e848000000000cb41"
    "2ea0a000000000c440112acf3efa6de80973d52e02a2715230bc587d850f4f7e1d27cf06b3888e585eb66c20"
    "5e8a7326600ce400a3603b09362490bea3290fb893182d45e4ccbcf403"
)
LIST_BYTES = (
    "94d934313244334b6f6f57535a656f524b436135767a5776355537366e42555a347a36487966425257683672"
    "6266394669465a756365460391d934313244334b6f6f574b63486450613365615a786f62714a584464337257"
    "5a415539664d4638694b57476d5238447a7944635a6669c4400150113992e030f87495ba8485454efdeb9f1d"
    "b2f888832c4f03c553e594b9e981e621e7acb7575c3419790facf77fb5dbc26f07c16f82f705b988be8c4f47"
    "07"
)
RECORDED: list[tuple[Message, str]] = [
    (TOKEN, TOKEN_BYTES),
    (DENIED, LIST_BYTES),
    (Hello(TOKEN, 3), f"92{TOKEN_BYTES}03"),
    (Listing(DENIED), f"91{LIST_BYTES}"),
    (Listing(), "91c0"),
]


@pytest.mark.parametrize(("message", "recorded"), RECORDED)
def test_recorded_bytes(message: Token | DenyList | Hello | Listing, recorded: str) -> None:
    assert encode(message).hex() == recorded
    assert decode_untrusted(bytes.fromhex(recorded), type(message), size_bytes_max=999) == message


def test_the_proof_is_the_one_that_is_written_down() -> None:
    key, hash_, ids = bytes(range(32)), bytes(32), (AUTHORITY.peer_id, ALICE.peer_id)
    said = b"manyhands/swarm-key/1" + b"initiator" + hash_ + "".join(ids).encode()
    assert proof(key, b"initiator", hash_, *ids) == hmac.new(key, said, "sha256").digest()
    assert proof(key, b"initiator", hash_, *ids).hex() == (
        "6f493845a4b62b5e99df4c3fc1c76a83a6dfadaeb3018347bad131fb89019311"
    )


@pytest.mark.parametrize(
    "kind", ["right", "of another handshake", "of the other role", "for another peer", "zeros"]
)
async def test_only_the_proof_of_this_handshake_is_answered(kind: str, tmp_path: Path) -> None:
    write_swarm_key(tmp_path / "key")
    key = read_swarm_key(tmp_path / "key")
    async with (
        open_served(NodeConfig(swarm_key_path=tmp_path / "key")) as bob,
        raw_connection(bob.addresses[0], ALICE) as dialer,
    ):
        session = await dialer.shake_hands()
        hash_, ids = session.handshake_hash, (ALICE.peer_id, bob.peer_id)
        said = {
            "right": proof(key, b"initiator", hash_, *ids),
            "of another handshake": proof(key, b"initiator", bytes(32), *ids),
            "of the other role": proof(key, b"responder", hash_, *ids),
            "for another peer": proof(key, b"initiator", hash_, *reversed(ids)),
            "zeros": bytes(32),
        }[kind]
        await session.send([b"\xff\xff" + said])
        answer = b"".join(await next_plains(session))
        if kind == "right":
            assert answer == b"\xff\xff" + proof(key, b"responder", hash_, *ids)
            await dialer.agree_over(session, "/yamux/1.0.0")
            await until(lambda: ALICE.peer_id in bob.connected_peers)
        else:
            assert answer == b""
            assert not bob.connections
