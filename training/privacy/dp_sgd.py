"""DP-SGD in a swarm: gradients that hide each single example, from lots drawn by chance.

A peer draws each of its N examples by itself with probability lot / N, cuts each drawn one's
gradient to length C, sums, adds noise, and divides by the lot that was expected, whatever the lot
that came. SwarmOptimizer averages that as it averages anything: the mean over peers, each of whom
says samples=lot, is one large lot's sum with all noise, divided by all that was expected.

Which noise, in one global step:

    a peer's first lot       a share, NoiseShares
    each further one         the whole noise

So the sum has at least the whole noise for each lot of one peer, also where a peer brings several
because others are gone: one lot of each peer makes the step, and only those that nobody else will
bring are brought by somebody a second time. If fewer peers than needed were in a round after all,
also in one that failed, its report says so, and what is spent is corrected to the truth.

What is promised, to whom: whoever sees parameters and sums of rounds learns (ε, δ) about one
example; see NoiseShares on aggregators, which see more. Losses and figures are not protected.

Source: M. Abadi et al., Deep Learning with Differential Privacy (2016), algorithm 1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import torch
from torch import nn

from training.delivered import known_contributors
from training.privacy.budget import PrivacyBudget
from training.privacy.noise import SYSTEM, Entropy, NoiseShares, secret_normals, secret_uniforms
from training.privacy.per_sample import Loss, PerSampleGradients
from training.progress import BatchMemory, PeerProgress, StepNorms
from training.step_report import StepReport

PATIENCE_S = 15.0
"""A peer that brings nothing for so long is not waited for any more; as for rounds."""


@dataclass(frozen=True, kw_only=True)
class DpSgd:
    """What all peers of a private run have alike."""

    clip: float
    """The longest that one example's gradient may be (L2), C."""
    noise_multiplier: float
    """The deviation of the whole noise in units of the clip, σ."""
    lot: int
    """Samples that one peer expects in each lot, the same at all."""
    shares: NoiseShares = field(default_factory=NoiseShares)
    """How the noise of one global step is shared."""
    copies: int = 1
    """At most so many peers hold the same example, and each draws it. All these lots are paid for,
    each with its part of the noise: that of the sum, or its own share where that is more."""
    samples_at_once: int = field(default=64, repr=False)
    """Whose gradients are held in memory at the same time; each peer's own affair."""

    def __post_init__(self) -> None:
        if not self.clip > 0 or not self.noise_multiplier > 0:
            raise ValueError(
                "clip and noise_multiplier must be above 0, "
                f"not {self.clip} and {self.noise_multiplier}"
            )
        if min(self.lot, self.copies) < 1:
            raise ValueError("lot and copies must be at least 1")

    def cost(self, examples: int, noise_multiplier: float | None = None) -> dict[str, Any]:
        """The arguments of PrivacyBudget.spend() for one lot from so many examples.

        Args:
            noise_multiplier: that the sum really had; None: as stated.

        Raises:
            ValueError: a lot is more than all examples.
        """
        if self.lot > examples:
            raise ValueError(f"a lot of {self.lot} cannot be drawn from {examples} examples")
        multiplier = self.noise_multiplier if noise_multiplier is None else noise_multiplier
        return {
            "rate": self.lot / examples,
            "noise_multiplier": multiplier / sqrt(self.lots_in_one_noise),
            "count": self.copies,
        }

    @property
    def lots_in_one_noise(self) -> int:
        """How many lots with the same example the whole noise is divided among, at most."""
        return min(self.copies, self.shares.needed)


@dataclass(frozen=True)
class PrivateBatch:
    """A batch schedule of one lot of each peer; who has other settings trains something else."""

    settings: DpSgd

    @property
    def uses_norms(self) -> bool:
        """It looks at nothing."""
        return False

    def samples_at(self, step: int, memory: BatchMemory = ()) -> int:
        """Always the same."""
        return self.settings.lot * self.settings.shares.peers

    def remember(self, memory: BatchMemory, norms: StepNorms) -> BatchMemory:
        """Nothing."""
        return ()


class PoissonLots:
    """Lots in which each example is by itself with the same probability; some are empty."""

    def __init__(self, *, examples: int, lot: int, entropy: Entropy = SYSTEM) -> None:
        if not 1 <= lot <= examples:
            raise ValueError(f"a lot of {lot} cannot be drawn from {examples} examples")
        self._examples = examples
        self._rate = lot / examples
        self._entropy = entropy

    def next_lot(self) -> torch.Tensor:
        """Indices of the drawn examples, int64, in order."""
        drawn = secret_uniforms(self._examples, self._entropy) < self._rate
        return torch.from_numpy(drawn.nonzero()[0])


def lot_is_due(peers: Sequence[PeerProgress], settings: DpSgd, *, patient: bool) -> bool:
    """Whether this peer should bring a lot now.

    Its first one in a step always; then it waits for the others' first ones. Lots that are missing
    when all who are there have brought theirs are brought by as many of them, in turn.

    Args:
        peers: all live ones.
        patient: still waits for peers that have brought nothing.
    """
    lot = settings.lot
    (me,) = (peer for peer in peers if peer.is_me)
    if me.samples < lot:
        return True
    others = [peer for peer in peers if peer.holds_state and not peer.is_me]
    late = [p for p in others if p.step < me.step or (p.step == me.step and p.samples < lot)]
    if late and patient:
        return False
    here = sorted((p for p in (me, *others) if p not in late), key=lambda peer: peer.peer_id)
    missing = settings.shares.peers - sum(p.samples // lot for p in here if p.step == me.step)
    turn = (here.index(me) - me.step) % len(here)
    return turn < missing


class PrivateGradients:
    """One peer's gradients with noise, paid for from a budget.

    Args:
        model: must have no layer that mixes samples, such as batch norm.
        loss: the mean loss of a batch.
        examples: how many the lots are drawn from, N.
        budget: is spent before a gradient is computed.
        entropy: where the noise comes from; anything but the system's is for tests.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        settings: DpSgd,
        *,
        examples: int,
        budget: PrivacyBudget,
        entropy: Entropy = SYSTEM,
    ) -> None:
        self.budget = budget
        self._model = model
        self._settings = settings
        self._examples = examples
        self._cost = settings.cost(examples)
        self._entropy = entropy
        self._per_sample = PerSampleGradients(model, loss, samples_at_once=settings.samples_at_once)
        self._computed_at_s = -inf
        self._lots = 0
        """Of ours in the global step at hand."""
        self._paid_for = settings.noise_multiplier
        """With so much noise the first of them is reckoned."""

    def is_due(self, peers: Sequence[PeerProgress]) -> bool:
        """Whether to bring a lot now, or to sit out until the step is taken; see lot_is_due().

        Args:
            peers: as optimizer.peers() tells.
        """
        waited_s = time.monotonic() - self._computed_at_s
        return lot_is_due(peers, self._settings, patient=waited_s < PATIENCE_S)

    def compute(self, batch: Any) -> float:
        """Leave a lot's private gradient in the parameters' `grad`; returns the mean loss.

        Hand it on with `optimizer.step(samples=lot)`, and its report to on_report(). The loss is
        not protected: keep it to yourself. It is NaN of an empty lot.

        Raises:
            PrivacyBudgetExhausted: nothing has changed.
        """
        self.budget.spend(**self._cost)
        settings = self._settings
        sums, loss, count = self._per_sample.clipped_sum(batch, settings.clip)
        whole = settings.noise_multiplier * settings.clip
        deviation = whole if self._lots else settings.shares.deviation(whole)
        self._lots += 1
        parameters = dict(self._model.named_parameters())
        for name, total in sums.items():
            noise = torch.from_numpy(secret_normals(total.numel(), self._entropy)).view(total.shape)
            noisy = total + (deviation * noise).to(total.dtype).to(total.device)
            parameters[name].grad = noisy / settings.lot
        self._computed_at_s = time.monotonic()
        return loss / count if count else float("nan")

    def on_report(self, report: StepReport) -> None:
        """step() has returned this: correct what was paid if too few peers brought noise."""
        settings = self._settings
        present = None if report.round is None else known_contributors(report.round)
        if present is not None and self._lots:
            actual = settings.shares.effective(settings.noise_multiplier, max(1, present))
            if actual < self._paid_for:
                paid = settings.cost(self._examples, self._paid_for)
                less = settings.cost(self._examples, actual)
                self.budget.correct(**paid, actual=less["noise_multiplier"])
                self._paid_for = actual
        if report.stepped or report.caught_up:
            self._lots = 0
            self._paid_for = settings.noise_multiplier
