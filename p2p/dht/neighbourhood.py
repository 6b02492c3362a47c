"""Neighbourhoods: one lookup serves all keys whose replicas it is sure to have found (core).

A lookup that is ``width`` wide hears the ``width`` nodes nearest to its target T. Let the farthest
of them share p - 1 leading bits with T. Every node that shares p bits or more is nearer to T than
that one, and so was heard, too: the subtree of these p bits is known as a whole. A key in it has
all nodes of the subtree nearer than any other node; if they are as many as there are replicas,
the key's replicas are among them, and no other lookup is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2p.dht.contact import Contact, choose_diverse
from p2p.dht.key import KEY_BITS, bucket_index


def shared_bits(left: int, right: int, bits: int = KEY_BITS) -> int:
    """How many leading bits two keys share; all of them for equal ones."""
    return bucket_index(left, right, bits)


@dataclass(frozen=True)
class Neighbourhood:
    """The nodes that a lookup has heard, and for which keys they are the nearest for sure."""

    target: int
    nodes: tuple[Contact, ...]
    """Nearest to the target first."""
    covered_bits: int
    """Keys that share so many leading bits with the target are covered."""
    bits: int = KEY_BITS
    silent: tuple[Contact, ...] = ()
    """Of those asked, who did not answer: they may be among the nearest to a covered key, too."""

    def covers(self, key: int) -> bool:
        """Whether the nodes nearest to this key are among ours."""
        return shared_bits(self.target, key, self.bits) >= self.covered_bits

    def nearest(self, key: int) -> list[Contact]:
        """Our nodes, nearest to this key first, crowded address ranges last.

        Who takes a place of a crowded range is the nearest that we heard: outside what is covered
        there may be a nearer one, which a lookup of this key alone would find.
        """
        nearest = sorted(self.nodes, key=lambda contact: contact.key ^ key)
        return choose_diverse(nearest, len(nearest))

    def silent_near(self, key: int, replicas: int) -> int:
        """How many of the silent are nearer to a key than the last of so many replicas."""
        nearest = self.nearest(key)[:replicas]
        if len(nearest) < replicas:
            return len(self.silent)
        farthest = max(one.key ^ key for one in nearest)
        return sum(one.key ^ key < farthest for one in self.silent)

    def replicas_of(self, key: int, replicas: int) -> list[Contact]:
        """Who should hold a key, those who were silent among them: most of them live."""
        both = sorted((*self.nodes, *self.silent), key=lambda contact: contact.key ^ key)
        return choose_diverse(both, min(replicas, len(both)))


def neighbourhood_of(
    target: int, heard: Sequence[Contact], *, width: int, replicas: int, bits: int = KEY_BITS
) -> Neighbourhood:
    """What a lookup of this width that heard these nodes (ourselves aside) is good for."""
    nodes = tuple(sorted(heard, key=lambda contact: contact.key ^ target))
    if len(nodes) < width:
        # It ran out of nodes: these are all that there are.
        return Neighbourhood(target, nodes, 0, bits)
    covered_bits = shared_bits(target, nodes[width - 1].key, bits) + 1
    inside = sum(shared_bits(target, node.key, bits) >= covered_bits for node in nodes[:width])
    if inside < replicas:
        covered_bits = bits
    return Neighbourhood(target, nodes, min(covered_bits, bits), bits)


def expected_bits(own_key: int, known: Iterable[Contact], width: int, bits: int = KEY_BITS) -> int:
    """How many leading bits the keys of one neighbourhood are likely to share.

    Node ids are spread evenly, so our own neighbourhood tells how large others are.
    """
    distances = sorted(contact.key ^ own_key for contact in known)
    if len(distances) < width:
        return 0
    return bits - distances[width - 1].bit_length()


def grouped(targets: Iterable[int], shared: int, bits: int = KEY_BITS) -> list[list[int]]:
    """Keys that share so many leading bits, group by group; in order, each once."""
    groups: dict[int, list[int]] = {}
    for target in sorted(set(targets)):
        groups.setdefault(target >> (bits - shared), []).append(target)
    return list(groups.values())
