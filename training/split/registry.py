"""Who is at a server: who may come in, with whom, and who may come back."""

from __future__ import annotations

import logging
import math
from collections import Counter

from averaging.codecs.floating import ITEM_SIZE_BYTES
from p2p import PeerId, RefusedError, short
from training.split.config import SplitServerConfig
from training.split.lineup import Lineup
from training.split.order import ServerOrder
from training.split.parts import Parts
from training.split.party import Group, Party
from training.split.schema import Hello
from training.split.wire import TensorWire

logger = logging.getLogger(__name__)


class Registry:
    """The sessions of a server, by their ids."""

    def __init__(self, parts: Parts, config: SplitServerConfig, dtype: str) -> None:
        self._parts = parts
        self._config = config
        self._dtype = dtype
        self._parties: dict[bytes, Party] = {}
        self._gathering: Group | None = None

    @property
    def parties(self) -> list[Party]:
        """All sessions, also those that have no stream just now."""
        return list(self._parties.values())

    @property
    def held_bytes(self) -> int:
        """What batches on their way take; an answer that may be asked for again is as large."""
        return sum(sum(party.holding.values()) for party in self._parties.values())

    def admit(self, peer_id: PeerId, hello: Hello) -> Party:
        """The session that a hello is about, or a new one.

        Raises:
            RefusedError: there can be none.
        """
        party = self._parties.get(hello.session)
        if party is not None:
            if party.peer_id != peer_id:
                raise RefusedError("unknown-session", "this session is not yours")
            return party
        if hello.resumes:
            raise RefusedError(
                "unknown-session",
                "this session is not known any more: the server was started anew, another party "
                "was lost, or it took too long to come back",
            )
        complaint = hello_complaint(hello, self._parts, self._dtype, self._config)
        if complaint is not None:
            raise RefusedError(*complaint)
        try:
            wire = TensorWire(hello.codec, hello.dtype)
        except ValueError as exc:
            raise RefusedError("codec-unknown", str(exc)) from exc
        of_peer = Counter(one.peer_id for one in self._parties.values())[peer_id]
        if len(self._parties) >= self._config.sessions_max:
            raise RefusedError("busy", f"{len(self._parties)} clients are here already")
        if of_peer >= self._config.sessions_per_peer_max:
            raise RefusedError("busy", f"this peer has {of_peer} sessions already")
        group = self._group_for(hello)
        party = Party(peer_id, hello, group, ServerOrder(hello.window), wire)
        group.parties[hello.party] = party
        self._gathering = group if len(group.parties) < group.size else None
        self._parties[hello.session] = party
        logger.info("split_client_joined peer=%s party=%d", short(peer_id), hello.party)
        return party

    def remove(self, party: Party) -> None:
        """A session is over; a group that was not complete is none any more."""
        self._parties.pop(party.hello.session, None)
        if self._gathering is party.group:
            self._gathering = None

    def _group_for(self, hello: Hello) -> Group:
        """The group that a newcomer joins.

        Raises:
            RefusedError: its place is taken.
        """
        size = self._parts.parties
        group = self._gathering or Group(size, Lineup(size))
        labelled = any(one.hello.brings_labels for one in group.parties.values())
        if hello.party in group.parties:
            raise RefusedError("taken", f"party {hello.party} is here already")
        if hello.brings_labels and labelled:
            raise RefusedError("taken", "another party brings the labels")
        is_last = len(group.parties) == size - 1
        if is_last and not hello.brings_labels and not labelled:
            raise RefusedError("taken", "no party would bring labels")
        return group


def hello_complaint(
    hello: Hello, parts: Parts, dtype: str, config: SplitServerConfig
) -> tuple[str, str] | None:
    """Why a client cannot train with these parts, as a code and a sentence; None if it can."""
    if hello.party >= parts.parties:
        return "taken", f"there are {parts.parties} parties, numbered from 0"
    if hello.cut_shape != parts.cut_shapes[hello.party]:
        return "cut-differs", (
            f"the client's activations are {hello.cut_shape} for each sample, where the server "
            f"takes {parts.cut_shapes[hello.party]}"
        )
    expected_side = "client" if parts.is_u_shaped else "server"
    if hello.label_side != expected_side:
        return "labels-differ", (
            f"labels are to be with the {hello.label_side}, and here they are with the "
            f"{expected_side}"
        )
    if hello.output_shape != parts.output_shape:
        return "cut-differs", (
            f"the client expects outputs of {hello.output_shape} for each sample, where the "
            f"server gives {parts.output_shape}"
        )
    if hello.dtype != dtype:
        return "dtype-differs", f"the client computes in {hello.dtype}, the server in {dtype}"
    if hello.model_hash != parts.model_hash:
        return "model-differs", (
            f"the client's model has the hash {hello.model_hash.hex()[:12]}, the server's "
            f"{parts.model_hash.hex()[:12]}"
        )
    if hello.window > config.window_max:
        return "window", (
            f"the client wants {hello.window} steps at once where {config.window_max} are allowed"
        )
    if not hello.brings_labels and parts.parties == 1:
        return "labels-differ", "a client alone must have the labels"
    if math.prod(hello.cut_shape) * ITEM_SIZE_BYTES[hello.dtype] > config.message_bytes_max:
        return "cut-differs", "one sample's activations are larger than a message may be"
    return None
