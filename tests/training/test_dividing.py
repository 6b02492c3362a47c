"""Swarm.divide(): two peers over real connections know of each other's shards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training import join, swarm
from training.data import telling
from training.data.shares import ShardShare


@pytest.mark.slow
def test_what_one_has_under_way_or_done_the_other_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "_TELL_INTERVAL_S", 0.0)
    monkeypatch.setattr(telling, "_INTERVAL_S", 0.1)
    monkeypatch.setattr(telling, "_PAUSE_S", 0.05)
    with join("test") as first, join("test", initial_peers=first.addresses) as second:
        shares = []
        for place in (first, second):
            model = nn.Linear(1, 1)
            sgd = torch.optim.SGD(model.parameters(), lr=0.1)
            place.optimizer(sgd, model=model, global_batch=8)
            shares.append(ShardShare(shard_count=4, seed=1, peer_id=place.peer_id))
        alice, bob = shares
        begun = []
        turns = [(alice, bob, first.peer_id), (bob, alice, second.peer_id)]
        for mine, other, me in turns * 2:
            begun.append(mine.next_turn())
            while me not in other.heard() or other.heard()[me].current != begun[-1]:
                first.divide(alice)
                second.divide(bob)
            mine.on_done()
        assert len(set(begun)) == 4
