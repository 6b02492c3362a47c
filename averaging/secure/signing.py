"""What members sign in a secure aggregation, and how others check it (core)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from averaging.secure.schema import Agreement, Certificate, Keys, Shares, SumEnd
from p2p import MessageInvalid, PeerId, short, verify_signature

Sign = Callable[[bytes], bytes]


def threshold_of(members: int) -> int:
    """How many shares give a secret back, and how many signatures agree: over two thirds.

    So two sets of signers share more than a third of the members, who would have signed twice.
    """
    return 2 * members // 3 + 1


def survivors_min(members: int) -> int:
    """The fewest whose sum is told: in a sum of two, each knows the other's vector."""
    return max(3, threshold_of(members))


def _signed_bytes(what: str, *fields: Any) -> bytes:
    # The name in front keeps a signature of one kind from passing as another's.
    return msgspec.msgpack.encode((f"manyhands/secure/1/{what}", *fields))


# The coordinator is a member, too, and would check everything twice.
@lru_cache(maxsize=512)
def _verified(peer: PeerId, signed: bytes, signature: bytes) -> bool:
    return verify_signature(peer, signed, signature)


def _check(peer: PeerId, signed: bytes, signature: bytes, what: str) -> None:
    if not _verified(peer, signed, signature):
        raise MessageInvalid(f"{what} that {short(peer)} did not sign for this group")


def _keys_bytes(group_id: bytes, keys: Keys) -> bytes:
    return _signed_bytes(
        "keys", group_id, keys.member, keys.channel_key, keys.mask_key, keys.seed_hash
    )


def signed_keys(group_id: bytes, keys: Keys, sign: Sign) -> Keys:
    """The same keys with their member's signature."""
    return msgspec.structs.replace(keys, signature=sign(_keys_bytes(group_id, keys)))


def check_keys_untrusted(group_id: bytes, peers: Sequence[PeerId], keys: Keys) -> None:
    """Raise MessageInvalid unless the member that they name signed these keys for this group."""
    if keys.member >= len(peers):
        raise MessageInvalid("keys of no member")
    _check(peers[keys.member], _keys_bytes(group_id, keys), keys.signature, "keys")


def _shares_bytes(group_id: bytes, dealer: int, hashes: bytes, keys_digest: bytes) -> bytes:
    return _signed_bytes("shares", group_id, dealer, hashes, keys_digest)


def signed_shares(group_id: bytes, shares: Shares, keys_digest: bytes, sign: Sign) -> Shares:
    """The same shares with their dealer's signature, which names all members' keys."""
    signed = _shares_bytes(group_id, shares.member, shares.hashes, keys_digest)
    return msgspec.structs.replace(shares, signature=sign(signed))


def check_shares_untrusted(
    group_id: bytes,
    peers: Sequence[PeerId],
    dealer: int,
    hashes: bytes,
    keys_digest: bytes,
    signature: bytes,
) -> None:
    """Raise MessageInvalid unless the dealer signed these hashes, having the same keys."""
    if dealer >= len(peers):
        raise MessageInvalid("shares of no member")
    signed = _shares_bytes(group_id, dealer, hashes, keys_digest)
    _check(peers[dealer], signed, signature, "shares")


def digest_of(what: str, *fields: Any) -> bytes:
    """A SHA-256 that names these fields."""
    return hashlib.sha256(_signed_bytes(what, *fields)).digest()


def _end_bytes(group_id: bytes, end: SumEnd) -> bytes:
    return _signed_bytes(
        "sum-end", group_id, end.plan, end.span, end.owner, end.survivors, end.digest
    )


def signed_end(group_id: bytes, end: SumEnd, sign: Sign) -> SumEnd:
    """The same end of a span with its aggregator's signature."""
    return msgspec.structs.replace(end, signature=sign(_end_bytes(group_id, end)))


def check_end_untrusted(group_id: bytes, peers: Sequence[PeerId], end: SumEnd) -> None:
    """Raise MessageInvalid unless the aggregator that it names signed this end."""
    if end.owner >= len(peers):
        raise MessageInvalid("a span's end of no member")
    _check(peers[end.owner], _end_bytes(group_id, end), end.signature, "a span's end")


def _agreement_bytes(group_id: bytes, plan: int, survivors: Sequence[int], digest: bytes) -> bytes:
    return _signed_bytes("agreement", group_id, plan, tuple(survivors), digest)


def signed_agreement(group_id: bytes, agreement: Agreement, sign: Sign) -> Agreement:
    """The same agreement, signed; the caller must never sign another in this group."""
    signed = _agreement_bytes(group_id, agreement.plan, agreement.survivors, agreement.digest)
    return msgspec.structs.replace(agreement, signature=sign(signed))


def check_agreement_untrusted(
    group_id: bytes, peers: Sequence[PeerId], agreement: Agreement
) -> None:
    """Raise MessageInvalid unless the member that it names signed this agreement."""
    if agreement.member >= len(peers):
        raise MessageInvalid("an agreement of no member")
    signed = _agreement_bytes(group_id, agreement.plan, agreement.survivors, agreement.digest)
    _check(peers[agreement.member], signed, agreement.signature, "an agreement")


def contradict(one: Agreement, other: Agreement) -> bool:
    """Whether two checked agreements of one group prove that their member signed two."""
    same = (one.plan, one.survivors, one.digest) == (other.plan, other.survivors, other.digest)
    return one.member == other.member and not same


def check_certificate_untrusted(
    group_id: bytes, peers: Sequence[PeerId], certificate: Certificate
) -> None:
    """Raise MessageInvalid unless enough different survivors signed exactly this."""
    signers = certificate.signers
    if len(signers) != len(certificate.signatures) or len(set(signers)) != len(signers):
        raise MessageInvalid("a certificate names a signer twice, or a wrong number of signatures")
    if not set(signers) <= set(certificate.survivors):
        raise MessageInvalid("a certificate is signed by one who is no survivor")
    if len(signers) < threshold_of(len(peers)):
        raise MessageInvalid(
            f"a certificate has {len(signers)} signatures, of {threshold_of(len(peers))} needed"
        )
    for signer, signature in zip(signers, certificate.signatures, strict=True):
        agreement = Agreement(
            signer, certificate.plan, certificate.survivors, certificate.digest, signature
        )
        check_agreement_untrusted(group_id, peers, agreement)


def check_members_untrusted(members: Sequence[int], count: int) -> None:
    """Raise MessageInvalid unless they are members, in order, each once, and enough."""
    if any(one >= other for one, other in itertools.pairwise(members)):
        raise MessageInvalid("members are not in order")
    if members and members[-1] >= count:
        raise MessageInvalid("a member that is none")
    if len(members) < survivors_min(count):
        raise MessageInvalid(
            f"{len(members)} members are left, and {survivors_min(count)} are needed"
        )


def keys_digest(keys: Sequence[Keys]) -> bytes:
    """Names everybody's keys."""
    return digest_of("all-keys", tuple(keys))


def transcript_of(digest: bytes, dealt: Sequence[tuple[int, bytes]]) -> bytes:
    """Names the keys, and the hashes of what each dealer dealt, in order."""
    return digest_of("all-shares", digest, tuple(dealt))


def survivors_digest(survivors: Sequence[int]) -> bytes:
    """Names a set of survivors."""
    return digest_of("survivors", tuple(survivors))


def sums_digest(transcript: bytes, digests: Sequence[bytes]) -> bytes:
    """Names all masked sums, and the keys and shares that their masks are made of."""
    return digest_of("sums", transcript, tuple(digests))
