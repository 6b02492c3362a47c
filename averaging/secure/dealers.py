"""What the coordinator keeps of members' keys and dealt shares, and tells others of them (core)."""

from __future__ import annotations

from collections.abc import Sequence

from averaging.secure import signing
from averaging.secure.schema import HASH_SIZE_BYTES, Dealt, Keys, Shares
from averaging.secure.sealing import agree_untrusted, key_of
from p2p import MessageInvalid, PeerId

# Whatever it is, it agrees on nothing with a public key with which nobody can.
_ANY_KEY = key_of(bytes(range(32)))


class Dealers:
    """Who gave keys, and who dealt shares; each does both once."""

    def __init__(self, group_id: bytes, peers: Sequence[PeerId]) -> None:
        self.keys: dict[int, Keys] = {}
        self.shares: dict[int, Shares] = {}
        self._keys_digest = b""
        self._group_id = group_id
        self._peers = tuple(peers)

    def on_keys_untrusted(self, sender: int, keys: Keys, *, wanted: bool) -> None:
        """Keep a member's keys while they are wanted.

        Raises:
            MessageInvalid: they are not its own, differ from those that it gave before, or agree
                on nothing secret.
        """
        if keys.member != sender or self.keys.get(sender, keys) != keys:
            raise MessageInvalid("keys of somebody else, or a second time")
        if wanted and sender not in self.keys:
            signing.check_keys_untrusted(self._group_id, self._peers, keys)
            for public_key in (keys.channel_key, keys.mask_key):
                agree_untrusted(_ANY_KEY, public_key)
            self.keys[sender] = keys
            self._keys_digest = signing.keys_digest(self.all_keys)

    def on_shares_untrusted(self, sender: int, shares: Shares, *, wanted: bool) -> None:
        """Keep what a member dealt while it is wanted.

        Raises:
            MessageInvalid: it is not its own, or has a wrong size, or differs from before.
        """
        if shares.member != sender or self.shares.get(sender, shares) != shares:
            raise MessageInvalid("shares of somebody else, or others than before")
        count = len(self.keys)
        if len(shares.hashes) != 2 * HASH_SIZE_BYTES * count or len(shares.boxes) != count:
            raise MessageInvalid("shares for a wrong number of members")
        if wanted and sender not in self.shares:
            signing.check_shares_untrusted(
                self._group_id,
                self._peers,
                sender,
                shares.hashes,
                self._keys_digest,
                shares.signature,
            )
            self.shares[sender] = shares

    @property
    def all_keys(self) -> tuple[Keys, ...]:
        """In the group's order."""
        return tuple(self.keys[member] for member in sorted(self.keys))

    def dealt_to(self, member: int) -> tuple[Dealt, ...]:
        """What each dealer dealt to a member."""
        place = self._place_of(member)
        return tuple(
            Dealt(dealer, shares.hashes, shares.boxes[place], shares.signature)
            for dealer, shares in sorted(self.shares.items())
        )

    def hashes_of(self, member: int) -> dict[int, bytes]:
        """What each dealer signed of a member's shares."""
        place = self._place_of(member) * 2 * HASH_SIZE_BYTES
        return {
            dealer: shares.hashes[place : place + 2 * HASH_SIZE_BYTES]
            for dealer, shares in sorted(self.shares.items())
        }

    def _place_of(self, member: int) -> int:
        """Where a member stands among those who gave keys, by which shares are ordered."""
        return sorted(self.keys).index(member)

    @property
    def transcript(self) -> bytes:
        """Names all keys, and all that was dealt."""
        dealt = [(dealer, shares.hashes) for dealer, shares in sorted(self.shares.items())]
        return signing.transcript_of(self._keys_digest, dealt)
