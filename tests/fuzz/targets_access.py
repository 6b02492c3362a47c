"""Targets of access: what stands between a handshake and the first stream, and saved peers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from p2p import (
    AccessConfig,
    MessageInvalid,
    PeerId,
    RefusedError,
    sign_deny_list,
    sign_token,
    token_text,
)
from p2p.host.access import (
    Access,
    Handshaken,
    Hello,
    Listing,
    prove_swarm_key_untrusted,
)
from p2p.host.multistream import line, propose_untrusted
from p2p.host.swarm_key import proof
from p2p.host.transport import DialError
from p2p.peerstore import Peerstore
from p2p.peerstore_file import SavedPeer
from p2p.wire import encode
from tests.fuzz.known import ALICE, BOB, CAROL
from tests.fuzz.target import EndOfInput, InputStream, Target, finish

KEY, HASH = b"k" * 32, b"h" * 32
FAR_S = 9e10


def _token(peer_id: PeerId) -> bytes:
    token = sign_token(
        CAROL, run="run", peer_id=peer_id, role="trainer", not_before_s=0, expires_at_s=FAR_S
    )
    return encode(Hello(token, 0))


def _sized(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


_GOOD = _sized(_token(ALICE.peer_id)) + _sized(encode(Listing()))
_LISTED = _sized(encode(Listing(sign_deny_list(CAROL, number=3, peers=[ALICE.peer_id]))))


def run_tokens(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "token"
        token = sign_token(
            CAROL, run="run", peer_id=BOB.peer_id, role="t", not_before_s=0, expires_at_s=FAR_S
        )
        path.write_text(token_text(token))
        config = AccessConfig(authority=CAROL.peer_id, run="run", token_path=path)
        access = Access(config, BOB.peer_id, lambda peer_id: None, wall_time_s=lambda: 1e9)
        try:
            stays_s = finish(access.exchange_untrusted(InputStream(data), ALICE.peer_id))
        except (MessageInvalid, DialError, EndOfInput):
            return
        # Only a token that the authority signed for this very peer lets it in.
        assert _token(ALICE.peer_id)[:-1] in data
        assert 0 < stays_s < FAR_S


def run_swarm_key(data: bytes) -> None:
    who = Handshaken(BOB.peer_id, ALICE.peer_id, HASH, is_dialer=False)
    stream = InputStream(data)
    right = b"\xff\xff" + proof(KEY, b"initiator", HASH, ALICE.peer_id, BOB.peer_id)
    try:
        finish(prove_swarm_key_untrusted(stream, KEY, who))
    except (DialError, EndOfInput):
        # Who does not have the key learns nothing from us.
        assert not stream.sent
        return
    assert data.startswith(right)


def run_propose(data: bytes) -> None:
    stream = InputStream(data)
    try:
        agreed = finish(propose_untrusted(stream, ("/one/1", "/two/1")))
    except (MessageInvalid, RefusedError, EndOfInput):
        return
    assert agreed in ("/one/1", "/two/1")
    assert agreed.encode() in data


def run_saved(data: bytes) -> None:
    peer_id, *addresses = data.decode("utf-8", "replace").split("\n")
    store = Peerstore()
    saved = SavedPeer(PeerId(peer_id), tuple(addresses), tuple(addresses[:1]), 1.0)
    store.restore_untrusted([saved])
    for one in store.saved():
        assert one.peer_id == peer_id
        assert len(one.addresses) <= 8


TARGETS = (
    Target(
        name="access.tokens",
        run=run_tokens,
        seeds=(_GOOD, _sized(_token(ALICE.peer_id)) + _LISTED, _sized(_token(BOB.peer_id))),
        covers=(
            "p2p.host.access.exchange_untrusted",
            "p2p.host.access._receive_untrusted",
        ),
    ),
    Target(
        name="access.swarm-key",
        run=run_swarm_key,
        seeds=(
            b"\xff\xff" + proof(KEY, b"initiator", HASH, ALICE.peer_id, BOB.peer_id),
            b"\xff\xff" + proof(KEY, b"responder", HASH, ALICE.peer_id, BOB.peer_id),
        ),
        covers=("p2p.host.access.prove_swarm_key_untrusted",),
    ),
    Target(
        name="access.propose",
        run=run_propose,
        seeds=(
            line("/multistream/1.0.0") + line("/one/1"),
            line("/multistream/1.0.0") + line("na") + line("/two/1"),
        ),
        covers=("p2p.host.multistream.propose_untrusted",),
    ),
    Target(
        name="access.saved-peers",
        run=run_saved,
        seeds=(f"{ALICE.peer_id}\n/ip4/192.0.2.1/tcp/1\n/ip4/192.0.2.2/tcp/2".encode(), b"x\ny"),
        covers=("p2p.peerstore.restore_untrusted",),
    ),
)
