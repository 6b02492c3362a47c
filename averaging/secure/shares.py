"""A member's two secrets in shares, of which others reveal one or the other, never both (core).

The *seed* is that of the mask which is the member's own; the *key* agrees on the masks that it has
in common with others. With a survivor's seed its own mask comes off the sum; with a lost member's
key the masks come off that others have in common with it. Whoever had both could take all masks off
that member's vector.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from averaging.secure import shamir
from averaging.secure.masks import mask_key
from averaging.secure.schema import HASH_SIZE_BYTES, Keys, Reveal
from averaging.secure.sealing import agree_untrusted, commit, public_key_of
from averaging.secure.signing import threshold_of
from p2p import MessageInvalid, PeerId, short


@dataclass(frozen=True)
class Pair:
    """A share of a dealer's seed, and one of its key."""

    seed: bytes
    key: bytes


def pair_hashes(group_id: bytes, dealer: int, receiver: int, pair: Pair) -> bytes:
    """Commitments to both shares, one behind the other."""
    names = bytes([dealer, receiver])
    seed = commit("seed-share", group_id, names, pair.seed)
    return seed + commit("key-share", group_id, names, pair.key)


def deal(
    secrets: Pair, threshold: int, receivers: Sequence[int], draw: shamir.Draw
) -> dict[int, Pair]:
    """Shares of both secrets for each receiver, the dealer among them."""
    places = [receiver + 1 for receiver in receivers]
    seeds = shamir.split(secrets.seed, threshold, places, draw)
    keys = shamir.split(secrets.key, threshold, places, draw)
    return {who: Pair(*both) for who, *both in zip(receivers, seeds, keys, strict=True)}


def common_mask_untrusted(group_id: bytes, ours: X25519PrivateKey, theirs: Keys) -> bytes:
    """The key of the mask that two members have in common; either one's secret key finds it.

    Raises:
        MessageInvalid: their key is none.
    """
    return mask_key(agree_untrusted(ours, theirs.mask_key), group_id)


class Vault:
    """The shares that others dealt to a member; it opens once, and gives one of each pair."""

    def __init__(self) -> None:
        self._pairs: dict[int, Pair] | None = {}

    def put(self, dealer: int, pair: Pair) -> None:
        """Keep what a dealer dealt; the first counts."""
        assert self._pairs is not None, "the vault has been opened"
        self._pairs.setdefault(dealer, pair)

    def open(self, survivors: Collection[int]) -> dict[int, bytes]:
        """For each dealer one share: a survivor's of its seed, else of its key.

        The other one is forgotten here, whatever is asked later.
        """
        assert self._pairs is not None, "the vault has been opened"
        pairs, self._pairs = self._pairs, None
        return {
            dealer: pair.seed if dealer in survivors else pair.key
            for dealer, pair in sorted(pairs.items())
        }


def check_reveal_untrusted(
    group_id: bytes, reveal: Reveal, survivors: Sequence[int], hashes: Mapping[int, bytes]
) -> dict[int, bytes]:
    """The share of each dealer that a member reveals.

    Args:
        hashes: for each dealer, what it signed of this member's shares.

    Raises:
        MessageInvalid: a share is not what the dealer dealt to this member.
    """
    dropped = [dealer for dealer in hashes if dealer not in survivors]
    if len(reveal.seeds) != len(survivors) or len(reveal.keys) != len(dropped):
        raise MessageInvalid("a wrong number of revealed shares")
    names = {dealer: bytes([dealer, reveal.member]) for dealer in hashes}
    for dealer, share in zip(survivors, reveal.seeds, strict=True):
        hashed = commit("seed-share", group_id, names[dealer], share)
        if hashed != hashes[dealer][:HASH_SIZE_BYTES]:
            raise MessageInvalid("a revealed share is not the one that was dealt")
    for dealer, share in zip(dropped, reveal.keys, strict=True):
        hashed = commit("key-share", group_id, names[dealer], share)
        if hashed != hashes[dealer][HASH_SIZE_BYTES:]:
            raise MessageInvalid("a revealed share is not the one that was dealt")
    shares = zip((*survivors, *dropped), (*reveal.seeds, *reveal.keys), strict=True)
    return dict(shares)


def secret_untrusted(
    group_id: bytes,
    peers: Sequence[PeerId],
    keys: Keys,
    *,
    survived: bool,
    shares: Mapping[int, bytes],
) -> bytes:
    """A dealer's seed or key, from shares of it by their members.

    Raises:
        MessageInvalid: what the dealer dealt is not what it had committed to; names it.
    """
    places = {member + 1: share for member, share in shares.items()}
    secret = shamir.join(places, threshold_of(len(peers)))
    if secret is None or not is_secret_of(group_id, keys, secret, survived=survived):
        dealer = short(peers[keys.member])
        raise MessageInvalid(f"the shares that {dealer} dealt are not of what it committed to")
    return secret


def is_secret_of(group_id: bytes, keys: Keys, secret: bytes, *, survived: bool) -> bool:
    """Whether this is what the member committed to: its seed if it survived, else its key."""
    if survived:
        return commit("seed", group_id, secret) == keys.seed_hash
    return public_key_of(secret) == keys.mask_key
