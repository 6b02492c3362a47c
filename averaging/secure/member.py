"""A member's side of a secure aggregation: what it tells, signs and reveals, each once (core).

    state     event                                           then
    KEYS      everybody's keys                                SHARES: its own, sealed for each
    SHARES    everybody's shares, one of them bad             complain; nothing of ours is spent
    SHARES    everybody's shares, all good                    PARTS: masked; now it is spent
    PARTS     a plan                                          the same bytes to spans' new owners
    PARTS     survivors, and a masked sum of them             tell that it is held
    PARTS     all sums held, and the coordinator's word       SIGNED: one agreement, for ever
    PARTS     a certificate for what is held                  REVEALED: one share of each member
    SIGNED    a certificate for what is held                  REVEALED: one share of each member
    SIGNED    another set of survivors                        refuse: the coordinator lies
    REVEALED  the secrets, which fit the commitments          DONE: masks come off the sum
    any       the attempt is over, and nothing was signed     ABANDONED: a promise never to sign

A message that is bad ends our part, and names who sent it. Indexes are in the group's order.

Source: K. Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
2017, figure 4. Other than there, a member signs the masked sum together with the survivors, so that
the certificate says that enough members hold the same bits before anybody reveals anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from averaging.secure import signing
from averaging.secure.masks import MaskKeys, mask_key
from averaging.secure.schema import (
    HASH_SIZE_BYTES,
    Agreement,
    AllKeys,
    AllShares,
    Certificate,
    Complaint,
    Dealt,
    Held,
    Keys,
    Plan,
    Reveal,
    Secrets,
    Shares,
    SignNow,
    SumEnd,
    Survivors,
)
from averaging.secure.sealing import (
    agree_untrusted,
    commit,
    key_of,
    open_untrusted,
    public_bytes_of,
    public_key_of,
    seal,
)
from averaging.secure.shamir import SECRET_SIZE_BYTES, SHARE_SIZE_BYTES, Draw
from averaging.secure.shares import (
    Pair,
    Vault,
    common_mask_untrusted,
    deal,
    is_secret_of,
    pair_hashes,
)
from averaging.secure.stages import Stage
from p2p import MessageInvalid, PeerId, short

_NO_SIGNATURE = bytes(64)


class Member:
    """One member of one group.

    Args:
        me: our index.
        owners: for each span the index of the aggregator that adds it up.
        sign: with our identity's key.
        draw: gives random bytes.
    """

    def __init__(
        self,
        *,
        me: int,
        peers: Sequence[PeerId],
        group_id: bytes,
        owners: Sequence[int],
        sign: signing.Sign,
        draw: Draw,
    ) -> None:
        self.me = me
        self.peers = tuple(peers)
        self.stage = Stage.KEYS
        self.spent = False
        """Whether a masked element may have left us: the vector is never to be offered again."""
        self.plan = 0
        self.owners = tuple(owners)
        self.survivors: tuple[int, ...] | None = None
        """Of the current plan, once they are proposed."""
        self._aggregators = frozenset(owners)
        self._group_id = group_id
        self._sign = sign
        self._draw = draw
        self._channel_key = key_of(draw(SECRET_SIZE_BYTES))
        self._secrets = Pair(draw(SECRET_SIZE_BYTES), draw(SECRET_SIZE_BYTES))
        self._keys: dict[int, Keys] = {}
        self._channels: dict[int, bytes] = {}
        self._keys_digest = b""
        self._transcript = b""
        self._dealers: tuple[int, ...] = ()
        self._vault = Vault()
        self._ends: dict[int, SumEnd] = {}
        self._agreed: tuple[int, tuple[int, ...], bytes] | None = None
        self._certificate: Certificate | None = None

    def begin(self) -> Keys:
        """Our keys for this group."""
        keys = Keys(
            self.me,
            public_bytes_of(self._channel_key),
            public_key_of(self._secrets.key),
            commit("seed", self._group_id, self._secrets.seed),
            _NO_SIGNATURE,
        )
        self._keys[self.me] = signing.signed_keys(self._group_id, keys, self._sign)
        return self._keys[self.me]

    def on_all_keys_untrusted(self, message: AllKeys) -> Shares:
        """The coordinator tells who takes part.

        Raises:
            MessageInvalid: the keys are not those that their members signed, or are too few.
        """
        self._expect(Stage.KEYS)
        members = [keys.member for keys in message.keys]
        signing.check_members_untrusted(members, len(self.peers))
        ours = self._keys[self.me]
        if ours not in message.keys:
            raise MessageInvalid("our own keys are not among those of all")
        for keys in message.keys:
            if keys != ours:
                signing.check_keys_untrusted(self._group_id, self.peers, keys)
            self._keys[keys.member] = keys
        self._keys_digest = signing.keys_digest(message.keys)
        self.stage = Stage.SHARES
        return self._shares(members)

    def _shares(self, members: Sequence[int]) -> Shares:
        threshold = signing.threshold_of(len(self.peers))
        pairs = deal(self._secrets, threshold, members, self._draw)
        self._vault.put(self.me, pairs[self.me])
        hashes = b"".join(
            pair_hashes(self._group_id, self.me, member, pairs[member]) for member in members
        )
        boxes = tuple(self._box_for(member, pairs[member]) for member in members)
        shares = Shares(self.me, hashes, boxes, _NO_SIGNATURE)
        return signing.signed_shares(self._group_id, shares, self._keys_digest, self._sign)

    def _box_for(self, member: int, pair: Pair) -> bytes:
        if member == self.me:
            return b""
        agreed = agree_untrusted(self._channel_key, self._keys[member].channel_key)
        self._channels[member] = agreed
        return seal(agreed, self._group_id, self.me, member, pair.seed + pair.key)

    def on_all_shares_untrusted(self, message: AllShares) -> Complaint | None:
        """The coordinator passes on what was dealt to us: from now on we can mask our vector.

        Returns:
            A complaint if a dealer's share is bad.

        Raises:
            MessageInvalid: the dealers did not sign this, or are too few.
        """
        self._expect(Stage.SHARES)
        dealers = tuple(dealt.dealer for dealt in message.dealt)
        signing.check_members_untrusted(dealers, len(self.peers))
        if self.me not in dealers or not set(dealers) <= set(self._keys):
            raise MessageInvalid("the dealers lack us, or are not all members who gave keys")
        for dealt in message.dealt:
            signing.check_shares_untrusted(
                self._group_id,
                self.peers,
                dealt.dealer,
                dealt.hashes,
                self._keys_digest,
                dealt.signature,
            )
        for dealt in message.dealt:
            if dealt.dealer != self.me and not self._keep(dealt):
                return Complaint(dealt.dealer)
        self._dealers = dealers
        self._transcript = signing.transcript_of(
            self._keys_digest, [(dealt.dealer, dealt.hashes) for dealt in message.dealt]
        )
        self.stage = Stage.PARTS
        return None

    def _keep(self, dealt: Dealt) -> bool:
        """Keep our shares, if they are what the dealer signed."""
        dealer = dealt.dealer
        try:
            agreed = self._channels[dealer]
            plain = open_untrusted(agreed, self._group_id, dealer, self.me, dealt.box)
        except MessageInvalid:
            return False
        pair = Pair(plain[:SHARE_SIZE_BYTES], plain[SHARE_SIZE_BYTES:])
        place = sorted(self._keys).index(self.me) * 2 * HASH_SIZE_BYTES
        hashes = dealt.hashes[place : place + 2 * HASH_SIZE_BYTES]
        if pair_hashes(self._group_id, dealer, self.me, pair) != hashes:
            return False
        self._vault.put(dealer, pair)
        return True

    def mask_keys(self) -> MaskKeys:
        """The masks of our vector; whoever takes them means to send it, so it is spent.

        Raises:
            MessageInvalid: a member's key is none.
        """
        assert self.stage is Stage.PARTS
        self.spent = True
        added = [mask_key(self._secrets.seed, self._group_id)]
        subtracted: list[bytes] = []
        ours = key_of(self._secrets.key)
        for dealer in self._dealers:
            if dealer != self.me:
                shared = common_mask_untrusted(self._group_id, ours, self._keys[dealer])
                (added if dealer > self.me else subtracted).append(shared)
        return MaskKeys(tuple(added), tuple(subtracted))

    def on_plan_untrusted(self, plan: Plan) -> list[int]:
        """Spans have new owners; returns which.

        Raises:
            MessageInvalid: it does not fit, or comes after we signed.
        """
        self._expect(Stage.PARTS)
        if len(plan.owners) != len(self.owners) or not set(plan.owners) <= self._aggregators:
            raise MessageInvalid("a plan does not fit the group")
        if plan.number <= self.plan:
            raise MessageInvalid("a plan that is older than ours")
        both = enumerate(zip(self.owners, plan.owners, strict=True))
        changed = [span for span, (before, after) in both if before != after]
        self.plan, self.owners = plan.number, plan.owners
        self.survivors = None
        self._ends.clear()
        return changed

    def on_survivors_untrusted(self, message: Survivors) -> None:
        """Whose vectors are to be in the sum, by the current plan.

        Raises:
            MessageInvalid: they are too few, did not deal, or it is a second set.
        """
        same = (message.plan, message.members) == (self.plan, self.survivors)
        if self._agreed is not None and not same:
            raise MessageInvalid("a second set of survivors, after we signed one")
        if same:
            return
        self._expect(Stage.PARTS)
        if message.plan != self.plan or self.survivors is not None:
            raise MessageInvalid("a second set of survivors for one plan")
        signing.check_members_untrusted(message.members, len(self.peers))
        if not set(message.members) <= set(self._dealers):
            raise MessageInvalid("survivors who dealt no shares")
        self.survivors = message.members

    def on_sum_untrusted(self, end: SumEnd, digest: bytes) -> Held | None:
        """A span's masked sum has come whole, with this digest; None when it is known.

        Raises:
            MessageInvalid: its aggregator did not sign it, or signed another.
        """
        if (
            self.stage is not Stage.PARTS
            or end.plan != self.plan
            or end == self._ends.get(end.span)
        ):
            return None
        if self.survivors is None or end.span >= len(self.owners):
            raise MessageInvalid("a masked sum that nobody asked for")
        if end.owner != self.owners[end.span] or end.digest != digest:
            raise MessageInvalid("a span's end does not fit its bytes")
        if end.survivors != signing.survivors_digest(self.survivors) or end.span in self._ends:
            raise MessageInvalid("a masked sum of others than the survivors")
        signing.check_end_untrusted(self._group_id, self.peers, end)
        self._ends[end.span] = end
        return Held(end)

    @property
    def holds_all(self) -> bool:
        """Whether we hold all masked sums of the current plan."""
        return len(self._ends) == len(self.owners)

    def on_sign_untrusted(self, message: SignNow) -> Agreement:
        """Sign what we hold; the same again if we are asked again.

        Raises:
            MessageInvalid: we do not hold it, are not in it, or signed another.
        """
        over = self.stage in (Stage.DONE, Stage.ABANDONED)
        if message.plan != self.plan or not self.holds_all or over:
            raise MessageInvalid("asked to sign what we do not hold, or too late")
        if self.survivors is None or self.me not in self.survivors:
            raise MessageInvalid("asked to sign, though we are no survivor")
        mine = self._bind()
        agreement = Agreement(self.me, *mine, _NO_SIGNATURE)
        if self.stage is Stage.PARTS:
            self.stage = Stage.SIGNED
        return signing.signed_agreement(self._group_id, agreement, self._sign)

    def _bind(self) -> tuple[int, tuple[int, ...], bytes]:
        """From now on nothing else is signed or revealed for than what we hold."""
        assert self.survivors is not None
        digests = [self._ends[span].digest for span in range(len(self.owners))]
        mine = (self.plan, self.survivors, signing.sums_digest(self._transcript, digests))
        assert self._agreed in (None, mine)
        self._agreed = mine
        return mine

    def on_certificate_untrusted(self, certificate: Certificate) -> Reveal | None:
        """Enough members hold the same: our shares, once; None if none are wanted from us.

        Raises:
            MessageInvalid: too few signed it, or it is for something else than we hold.
        """
        if self._certificate is not None:
            if certificate != self._certificate:
                raise MessageInvalid("a second certificate")
            return None
        if not self.holds_all or self.survivors is None or self.stage is Stage.ABANDONED:
            # It is no use to us; what we have dealt is with the others.
            return None
        signing.check_certificate_untrusted(self._group_id, self.peers, certificate)
        told = (certificate.plan, certificate.survivors, certificate.digest)
        if told != self._bind():
            raise MessageInvalid("a certificate for another sum than the one that came to us")
        self._certificate = certificate
        self.stage = Stage.REVEALED
        if self.me not in self.survivors:
            return None
        shares = self._vault.open(self.survivors)
        return Reveal(
            self.me,
            tuple(shares[dealer] for dealer in self.survivors),
            tuple(shares[dealer] for dealer in self.dropped),
        )

    def abandon(self) -> bool:
        """Promise never to sign or reveal in this group; whether that is a promise we can keep."""
        if self._agreed is None:
            self.stage = Stage.ABANDONED
        return self._agreed is None

    @property
    def dropped(self) -> tuple[int, ...]:
        """Who dealt shares and is no survivor: their masks are in the others' vectors."""
        survivors = self.survivors or ()
        return tuple(dealer for dealer in self._dealers if dealer not in survivors)

    @property
    def digest(self) -> bytes:
        """Names the sum, once it is agreed: equal digests, equal bits; else empty."""
        return b"" if self._certificate is None else self._certificate.digest

    def on_secrets_untrusted(self, secrets: Secrets) -> MaskKeys:
        """What to add to the masked sum, and to subtract, so that the sum remains.

        Raises:
            MessageInvalid: nothing is agreed, or these are not the members' secrets.
        """
        self._expect(Stage.REVEALED)
        survivors, dropped = self.survivors or (), self.dropped
        if len(secrets.seeds) != len(survivors) or len(secrets.keys) != len(dropped):
            raise MessageInvalid("a wrong number of secrets")
        seeds = dict(zip(survivors, secrets.seeds, strict=True))
        lost = dict(zip(dropped, secrets.keys, strict=True))
        for member, secret in {**seeds, **lost}.items():
            survived = member in seeds
            if not is_secret_of(self._group_id, self._keys[member], secret, survived=survived):
                raise MessageInvalid(f"not the secret of {short(self.peers[member])}")
        added: list[bytes] = []
        subtracted = [mask_key(seed, self._group_id) for seed in seeds.values()]
        for one, secret in lost.items():
            theirs = key_of(secret)
            for member in survivors:
                shared = common_mask_untrusted(self._group_id, theirs, self._keys[member])
                (subtracted if one > member else added).append(shared)
        self.stage = Stage.DONE
        return MaskKeys(tuple(added), tuple(subtracted))

    def _expect(self, stage: Stage) -> None:
        if self.stage is not stage:
            raise MessageInvalid(f"a message out of turn: we are at {self.stage.value}")
