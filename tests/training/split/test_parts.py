"""Where models are cut, and passes whose second half comes later."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.split import Parts, cut, pair
from training.split.parts import architecture_hash
from training.split.passes import HeldPass, take_step


def test_cuts_and_what_they_are_told_by() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 4), nn.Linear(4, 3))
    model.train()
    one, two = (cut(model, at, example=torch.zeros(1, 6)) for at in (2, (1, 3)))
    assert (one.cut_shapes, one.output_shape, one.is_u_shaped) == (((5,),), (), False)
    assert (two.cut_shapes, two.output_shape, two.is_u_shaped) == (((5,),), (4,), True)
    assert one.body is not None
    assert len(list(one.body.children())) == 2
    assert model.training
    assert one.model_hash != two.model_hash
    again = cut(model, 2, example=torch.ones(3, 6))
    assert again.model_hash == one.model_hash
    assert architecture_hash([nn.Dropout(0.5)]) != architecture_hash([nn.Dropout(0.1)])
    for at in (0, 4, (2, 2), (2, 4)):
        with pytest.raises(ValueError, match="leave a part of 4 layers empty"):
            cut(model, at, example=torch.zeros(1, 6))
    with pytest.raises(ValueError, match="2 fronts need as many examples"):
        pair([model, model], model, examples=[torch.zeros(1, 6)])
    for wrong in (
        {"cut_shapes": ()},
        {"cut_shapes": ((),)},
        {"cut_shapes": ((1,),), "fronts": (None, None)},
        {"cut_shapes": ((1,),), "model_hash": b"short"},
        {"cut_shapes": ((1,),), "tail": model},
    ):
        with pytest.raises(ValueError, match=r"must|need|has|says"):
            Parts(**wrong)  # type: ignore[arg-type]


def test_a_held_pass_remembers_its_parameters() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    inputs = torch.randn(4, 3)
    expected = torch.autograd.grad(module(inputs).sum(), list(module.parameters()))
    held = HeldPass(module, inputs, stash=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module(inputs).pow(2).sum().backward()
    optimizer.step()
    _, gradients = held.gradients([held.output], [torch.ones(4, 1)])
    for (parameter, gradient), right in zip(gradients, expected, strict=True):
        assert gradient is not None
        assert torch.allclose(gradient, right)
        assert parameter.grad is not None
        assert not torch.equal(parameter.grad, gradient)
    take_step(optimizer, gradients)
    assert all(parameter.grad is gradient for parameter, gradient in gradients)


def test_what_has_no_parameters_gives_no_gradients() -> None:
    held = HeldPass(nn.Flatten(), torch.zeros(2, 3), stash=False)
    assert held.gradients([held.output], [torch.ones(2, 3)]) == ([], [])
    take_step(None, [])


@pytest.mark.slow
def test_a_client_computes_a_small_part() -> None:
    """A small network like VGG, cut after its first block: counted, forward and backward."""

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    layers = [*block(3, 8), *block(8, 48), *block(48, 96), nn.Flatten(), nn.Linear(1536, 10)]
    model = nn.Sequential(*layers)
    inputs = torch.zeros(2, 3, 32, 32)
    counted = []
    for module in (cut(model, 5, example=inputs).fronts[0], model):
        assert module is not None
        with FlopCounterMode(display=False) as counter:
            module(inputs).sum().backward()
        counted.append(counter.get_total_flops())
    assert 0 < counted[0] / counted[1] < 0.1
