"""What every node of a swarm that trains demands of the records that it holds for others."""

import pytest

from averaging import RoundId
from averaging.matchmaking import schema as matchmaking
from averaging.matchmaking.keys import strangers_key
from p2p import Message, PeerId, encode, owned_subkey
from p2p.dht.record import Record
from p2p.dht.validate import ValidatorChain
from training.network import RUN_VALIDATORS
from training.progress.position import PeerRecord, Position
from training.progress.schema import dht_key, message_of

ROUND = RoundId(9, bytes(32))
PROGRESS = message_of(
    PeerRecord(position=Position(ROUND), spec_hash=bytes(32)), life_s=30.0, addresses=()
)
CANDIDATE = matchmaking.CandidateRecord((), matchmaking.round_on_wire(ROUND), bytes(32))
KINDS = [
    (dht_key("run"), PROGRESS),
    (strangers_key("run/gradients"), CANDIDATE),
    (strangers_key("run/gradients", "01"), CANDIDATE),
]


def complaint(key: str, subkey: str | None, value: bytes) -> str | None:
    # Signatures are another's business.
    chain = ValidatorChain(RUN_VALIDATORS, lambda record: None)
    owned = subkey is not None and subkey.startswith("peer:")
    record = Record(key=key, subkey=subkey, value=value, life_ms=60_000 * owned)
    return chain.complaint(record, 0.0)


@pytest.mark.parametrize(("key", "message"), KINDS)
def test_only_signed_records_of_their_kind_are_held_for_a_run(key: str, message: Message) -> None:
    owned = owned_subkey(PeerId("alice"))
    assert complaint(key, owned, encode(message)) is None
    assert "schema" in (complaint(key, owned, b"nonsense") or "")
    for subkey in ("!0000", None):
        assert "only signed" in (complaint(key, subkey, encode(message)) or "")


def test_other_keys_of_a_run_are_free() -> None:
    for key in ("run/songs", "run/0/songs", "run/10b", "progress"):
        assert complaint(key, None, b"anything") is None
