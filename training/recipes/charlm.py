"""A language model over characters, small enough for a laptop, on the sources of Python."""

from __future__ import annotations

import torch
from torch import nn

from training.data.stdlib_text import standard_library_text
from training.tasks.next_character import CHARACTER_COUNT, NextCharacter


class CharacterModel(nn.Module):
    """A gated recurrent unit between an embedding and a linear layer."""

    def __init__(self, *, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(CHARACTER_COUNT, embedding)
        self.recur = nn.GRU(embedding, hidden, batch_first=True)
        self.score = nn.Linear(hidden, CHARACTER_COUNT)

    def forward(self, codes_BL: torch.Tensor) -> torch.Tensor:
        """Scores (B, L, characters) of what comes after each place, from int64 (B, L)."""
        hidden_BLH, _ = self.recur(self.embed(codes_BL))
        scores: torch.Tensor = self.score(hidden_BLH)
        return scores


def make_model(embedding: int = 32, hidden: int = 128) -> nn.Module:
    """With these sizes it has 77 825 parameters."""
    return CharacterModel(embedding=embedding, hidden=hidden)


def load_data(length: int = 64) -> NextCharacter:
    """About a megabyte of Python's standard library; every tenth file is the test text."""
    text = standard_library_text()
    return NextCharacter(text.train, text.test, length=length)
