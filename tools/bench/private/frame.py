"""The frame in which all ways to learn are compared: data, model, passes and attacks.

Four clients have a quarter of the training digits each. Whatever the mode, the model has as many
layers and parameters, each example is passed as often, and an attack is judged on the test digits.

    N  samples
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tools.bench.report import Row
from training.data import LabelledData
from training.recipes.digits import DIGIT_COUNT, IMAGE_SIDE
from training.split.attacks import (
    Decoder,
    Pairs,
    input_of_linear_layer,
    neighbour_decoder,
    perceptron_decoder,
    reconstruct,
    ridge_decoder,
)

CLIENTS = 4
BATCH = 60
"""Of one client; a quarter of the digits is six of these."""
RATE = 0.1
"""Of plain SGD, the same in each mode without noise."""
PIXELS, HIDDEN, WIDTH = IMAGE_SIDE**2, 64, 32
"""WIDTH activations go from the first part of the model to the second."""
FRONT_LAYERS = 5
RIDGE: dict[str, Decoder] = {"ridge": ridge_decoder}
ATTACKS: dict[str, Decoder] = {
    **RIDGE,
    "patient": partial(perceptron_decoder, epochs=150),
    "neighbours": neighbour_decoder,
}
"""On activations; the best one counts. A decoder of convolutions is behind the perceptron here:
errors of 0.018 and 0.011 on one front."""
_ALONE = 60
"""So many samples are attacked one by one."""

Shown = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Inputs and labels (N, …) in; out come the gradients or changes of the first linear layer's weight
and bias that whoever aggregates sees of them."""


@dataclass(frozen=True)
class Frame:
    """One run of all modes."""

    data: LabelledData
    """Pixels from 0 to 1, in 32 bits."""
    passes: int
    """Over each client's data."""
    seed: int

    @property
    def shards(self) -> list[torch.Tensor]:
        """The indices of each client's examples: every fourth one."""
        count = len(self.data.train_labels)
        return [torch.arange(client, count, CLIENTS) for client in range(CLIENTS)]

    @property
    def steps(self) -> int:
        """Of one client in all passes."""
        return self.passes * -(-len(self.shards[0]) // BATCH)

    @property
    def samples(self) -> float:
        """That one client passes, on average."""
        return self.passes * len(self.data.train_labels) / CLIENTS

    def batches(self, indices: torch.Tensor) -> list[list[torch.Tensor]]:
        """Indices of each batch of each pass, in an order that the seed decides."""
        generator = torch.Generator().manual_seed(self.seed)
        return [
            list(torch.split(indices[torch.randperm(len(indices), generator=generator)], BATCH))
            for _ in range(self.passes)
        ]

    def examples(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels of some training examples."""
        return self.data.train_inputs[indices], self.data.train_labels[indices]

    def model(self) -> nn.Sequential:
        """As every mode begins with it: the layers of the front, then those of the body."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return make_model()

    def accuracy(self, model: nn.Module) -> float:
        """The part of the test digits that it tells rightly."""
        with torch.no_grad():
            right = model(self.data.test_inputs).argmax(dim=1) == self.data.test_labels
        return float(right.double().mean())

    def ask_activations(
        self, front: nn.Module, attacks: Mapping[str, Decoder] = ATTACKS
    ) -> dict[str, float]:
        """The errors of attacks on activations by who has all training digits with theirs."""
        data = self.data
        with torch.no_grad():
            auxiliary = Pairs(front(data.train_inputs), data.train_inputs)
            victims = Pairs(front(data.test_inputs), data.test_inputs)
        errors = {
            f"{name}_error": reconstruct(attack, auxiliary, victims).error
            for name, attack in attacks.items()
        }
        best = min(errors.values())
        # An activation is of one sample, however many travel together.
        return {"attack_error": best, "attack_error_alone": best, **errors}

    def ask_gradients(self, shown: Shown, *, together: int) -> dict[str, float]:
        """The error of reading pictures back from gradients of so many test digits, and of one."""
        data = self.data
        count = len(data.test_labels)

        def error(groups: Iterable[torch.Tensor]) -> float:
            squares = [
                (_read(*shown(data.test_inputs[group], data.test_labels[group])) - pictures)
                .double()
                .square()
                .mean()
                for group in groups
                for pictures in [data.test_inputs[group].flatten(1)]
            ]
            return float(torch.stack(squares).mean())

        return {
            "attack_error": error(torch.split(torch.arange(count), together)),
            "attack_error_alone": error(torch.arange(min(_ALONE, count))[:, None]),
        }


def make_model() -> nn.Sequential:
    """64-64-32 with a LayerNorm, as NoPeek needs it, then 32-64-10: 9 066 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(PIXELS, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, WIDTH),
        nn.LayerNorm(WIDTH),
        nn.Linear(WIDTH, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, DIGIT_COUNT),
    )


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of each mode without noise."""
    return torch.optim.SGD(parameters, lr=RATE)


def counted_flops(work: Callable[[], Any]) -> int:
    """Floating point operations of matrix products while this runs, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def row_of(mode: str, *, accuracy: float, client_flops: float, seen: str, **figures: Any) -> Row:
    """A row whose keys stand in the order of the table; errors of attacks to a millionth.

    Args:
        client_flops: of one client, in all.
        seen: what the attack is on, or why there is nothing to attack.
        figures: client_kb, seconds; for means formula_kb; and what attacks found, if anything.
    """
    return {
        "mode": mode,
        "accuracy": accuracy,
        "client_mflops": client_flops / 1e6,
        "client_kb": figures.pop("client_kb"),
        "formula_kb": figures.pop("formula_kb", None),
        "seconds": figures.pop("seconds"),
        "attack_error": _shown(figures.pop("attack_error", None)),
        "attack_error_alone": _shown(figures.pop("attack_error_alone", None)),
        "seen": seen,
        **figures,
    }


def _shown(error: float | None) -> float | None:
    return None if error is None else round(error, 6)


def _read(weight_gradient: torch.Tensor, bias_gradient: torch.Tensor) -> torch.Tensor:
    """The picture that a gradient shows, (64); pixels beyond 0 to 1 are known to be wrong."""
    return input_of_linear_layer(weight_gradient, bias_gradient).clamp(0, 1)
