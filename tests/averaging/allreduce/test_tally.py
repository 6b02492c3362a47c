"""The tally: whether a quorum can still come to be, against all that may yet be said."""

from __future__ import annotations

import itertools
from functools import partial

import pytest

from averaging.allreduce.schema import Promise, Vote
from averaging.allreduce.tally import Tally
from averaging.matchmaking.group import quorum_reached

SILENT, PROMISED = "silent", "promised"
RESULTS = {"a": (b"a" * 32,), "b": (b"b" * 32,), "c": (b"c" * 32,)}
"""The last is one that nobody has voted for yet."""


def can_commit(said: tuple[str, ...], liars: int) -> bool:
    """Whether some result gets a quorum, if the silent vote for it and so many others lie."""
    voters = range(len(said))
    for result in RESULTS:
        votes = [voter for voter in voters if said[voter] in (result, SILENT)]
        others = [voter for voter in voters if voter not in votes]
        for lying in itertools.combinations(others, min(liars, len(others))):
            if quorum_reached(voters, [*votes, *lying], liars):
                return True
    return False


@pytest.mark.parametrize("liars", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_undecidable_is_what_nobody_can_decide_any_more(count: int, liars: int) -> None:
    for said in itertools.product((SILENT, PROMISED, "a", "b"), repeat=count):
        voters = tuple(range(count))
        tally = Tally(voters, partial(quorum_reached, tolerated_liars=liars), liars)
        for voter, word in enumerate(said):
            if word == PROMISED:
                tally.promises[voter] = Promise(voter, bytes(64))
            elif word != SILENT:
                tally.count(voter, Vote(RESULTS[word], bytes(64)))
        assert tally.undecidable() != can_commit(said, liars), said
