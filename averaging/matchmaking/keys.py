"""Ranks, by which everyone who knows the same peers knows the leader, and the strangers' key."""

from __future__ import annotations

import hashlib

from p2p import PeerId

SHARED_BUCKET = ""
"""The one bucket of a swarm without a grid; with one, everybody is listed in it to be counted."""


def rank(parent: bytes, peer_id: PeerId) -> bytes:
    """A peer's rank in the round that builds on this result; the smallest leads.

    Nobody can choose a key for its rank, since the parent is known only when the last round is
    committed; and the leader changes from round to round.
    """
    return hashlib.sha256(parent + peer_id.encode()).digest()


def strangers_key(group_name: str, bucket: str = SHARED_BUCKET) -> str:
    """The DHT key under which members of one bucket find each other."""
    return f"{group_name}/0b{bucket}" if bucket else f"{group_name}/0"
