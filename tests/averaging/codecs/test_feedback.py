"""Error feedback: nothing is lost for good, whoever is included, and with whatever weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from averaging.codecs.feedback import (
    FEEDBACK_KINDS,
    DownlinkResidual,
    Ef21,
    ErrorFeedback,
    feedback_named,
)
from averaging.codecs.floating import FloatingWire, Run
from averaging.codecs.pair import CodecPair
from tests.averaging.codecs.samples import Largest

COUNT = 40


def through(codec: Largest, values: torch.Tensor) -> torch.Tensor:
    decoded = torch.empty_like(values)
    codec.decode(codec.encode(values, 0), decoded)
    return decoded


def vectors(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, generator=generator) for _ in range(count)]


def test_what_was_sent_and_what_is_owed_are_all_that_there_was() -> None:
    """Σ w·x = Σ w·c of the included + e, over rounds of different weights, runs and fates."""
    feedback, codec = ErrorFeedback(COUNT), Largest(0.1)
    told, sent = torch.zeros(COUNT), torch.zeros(COUNT)
    for number, values in enumerate(vectors(12)):
        weight = 1.0 + number % 3
        told += weight * values
        # Each round has another grid of chunks.
        edges = [0, 7 + number, 25, COUNT]
        for first, (start, stop) in enumerate(itertools.pairwise(edges)):
            run = values[start:stop]
            decoded = through(codec, feedback.outgoing(run, start, weight))
            included = (number + first) % 3 != 0
            feedback.settle(run, start, weight, decoded.clone() if included else None)
            if included:
                sent[start:stop] += weight * decoded
    owed = feedback.snapshot()["owed"]
    assert owed.abs().max() > 0.5
    torch.testing.assert_close(sent + owed, told, rtol=1e-4, atol=1e-4)


def test_a_failed_round_changes_nothing() -> None:
    feedback = ErrorFeedback(COUNT)
    values = vectors(1)[0]
    feedback.settle(values, 0, 2.0, torch.zeros(COUNT))
    before = feedback.snapshot()["owed"]
    first = feedback.outgoing(values, 0, 4.0)
    torch.testing.assert_close(first, values + before / 4)
    torch.testing.assert_close(feedback.outgoing(values, 0, 4.0), first)
    assert torch.equal(feedback.snapshot()["owed"], before)


def test_what_is_given_up_is_counted() -> None:
    feedback = ErrorFeedback(COUNT)
    assert feedback.drop(0, COUNT) == 0
    feedback.settle(torch.ones(COUNT), 0, 1.0, torch.cat([torch.ones(30), torch.zeros(10)]))
    assert feedback.drop(20, 35) == 5
    assert feedback.drop(20, COUNT) == 5


@pytest.mark.parametrize("kind", FEEDBACK_KINDS[1:])
def test_what_is_kept_is_copied_and_forgotten(kind: str) -> None:
    feedback, again = feedback_named(kind, COUNT), feedback_named(kind, COUNT)
    assert feedback is not None
    assert again is not None
    assert feedback.snapshot() == {}
    for values in vectors(3):
        feedback.settle(values, 0, 1.0, through(Largest(0.2), feedback.outgoing(values, 0, 1.0)))
    values = vectors(1, seed=5)[0]
    assert not torch.equal(feedback.outgoing(values, 0, 1.0), values)
    again.restore(feedback.snapshot())
    if kind == "ef":
        assert torch.equal(again.outgoing(values, 0, 1.0), feedback.outgoing(values, 0, 1.0))
        with pytest.raises(ValueError, match="does not fit"):
            again.restore({name: part[1:] for name, part in feedback.snapshot().items()})
    feedback.reset()
    assert torch.equal(feedback.outgoing(values, 0, 1.0), values)
    with pytest.raises(ValueError, match="another method"):
        again.restore({"unknown": values})


def test_unknown_kinds_are_refused() -> None:
    assert feedback_named("none", 3) is None
    with pytest.raises(ValueError, match="one of none, ef, ef21, ef21-momentum, not 'ef22'"):
        feedback_named("ef22", 3)
    with pytest.raises(ValueError, match="momentum"):
        Ef21(3, momentum=0)


def descend(make: str, rounds: int, step: float) -> torch.Tensor:
    """The point after gradient descent of three members with Top-1.

    Source of the problem: A. Beznosikov et al., "On Biased Compression for Distributed Learning",
    section 5.1: without error feedback it diverges, by 1 + 11/6 of the step in each round.
    """
    slopes = [
        torch.tensor([-3.0, 2, 2]),
        torch.tensor([2.0, -3, 2]),
        torch.tensor([2.0, 2, -3]),
    ]
    point = torch.ones(3)
    members = [feedback_named(make, 3) for _ in slopes]
    shared = feedback_named(make, 3)
    assert (shared is None) == (make == "none")
    codec = Largest(1 / 3)
    for _ in range(rounds):
        frames = []
        for slope, feedback in zip(slopes, members, strict=True):
            # The step is inside: what is compressed is what the point moves by.
            values = step * (2 * slope * slope.dot(point) + point / 2)
            if feedback is None:
                frames.append(through(codec, values))
                continue
            frames.append(through(codec, feedback.outgoing(values, 0, 1.0)))
            feedback.settle(values, 0, 1.0, frames[-1].clone())
        mean = torch.stack(frames).mean(0)
        point = point - (shared.applied(mean, 0, 3.0, 3.0) if isinstance(shared, Ef21) else mean)
    return point


@pytest.mark.slow
def test_error_feedback_makes_a_diverging_descent_converge() -> None:
    rounds, step = 300, 0.02
    assert descend("none", rounds, step)[0] == pytest.approx(
        (1 + 11 / 6 * step) ** rounds, rel=1e-3
    )
    assert descend("ef", 2 * rounds, step).abs().max() < 0.01
    assert descend("ef21", 2 * rounds, step).abs().max() < 0.01
    assert descend("ef21-momentum", 2 * rounds, step).abs().max() < 0.05


def follow(momentum: float, absent: bool, weights: list[float]) -> tuple[torch.Tensor, ...]:
    """What EF21 applies after many rounds of other weights, and what it should come to."""
    targets = vectors(3)
    members, shared = [Ef21(COUNT, momentum=momentum) for _ in targets], Ef21(COUNT)
    applied = torch.zeros(COUNT)
    for number in range(200):
        total, included = torch.zeros(COUNT), 0.0
        turned = [weights[(number + member) % 3] for member in range(3)]
        for member, (feedback, values) in enumerate(zip(members, targets, strict=True)):
            decoded = through(Largest(0.1), feedback.outgoing(values, 0, turned[member]))
            left_out = absent and number % 3 == member
            total += 0 if left_out else turned[member] * decoded
            included += 0 if left_out else turned[member]
            feedback.settle(values, 0, turned[member], None if left_out else decoded)
        applied = shared.applied(total / included, 0, included, sum(turned))
    expected = sum(weight * values for weight, values in zip(turned, targets, strict=True))
    return applied, torch.as_tensor(expected) / sum(turned)


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("momentum", [1.0, 0.1])
def test_ef21_comes_to_the_mean_though_members_are_left_out(absent: bool, momentum: float) -> None:
    applied, expected = follow(momentum, absent, [2.0, 2.0, 2.0])
    torch.testing.assert_close(applied, expected, rtol=0, atol=1e-5)


def test_ef21_follows_weights_that_change() -> None:
    """Each round the weights change hands, and a tenth of what changes is told at once."""
    applied, expected = follow(1.0, False, [2.0, 2.1, 1.9])
    assert (applied - expected).abs().max() < 0.1


def seconds_of(bytes_per_element: float) -> float:
    """Nothing is chosen by it here."""
    raise AssertionError(bytes_per_element)


def test_ef21_begins_anew_where_the_reference_is_another() -> None:
    coding = CodecPair(Largest(0.1), None, "ef21").coding(
        FloatingWire([Run(0, COUNT, "float32")], np.dtype("float32")), COUNT
    )
    kept = coding.differences
    assert kept is not None
    assert coding.reference == b""
    fresh = coding.begun("ab", [b"", b""], seconds_of)
    assert fresh.differences is not kept
    assert fresh.differences is not None
    fresh.differences.agreed, fresh.differences.weights = b"digest", {"a": 1.0, "b": 2.0}
    coding.keep(fresh)
    assert coding.reference == b"digest"
    assert coding.begun("ab", [b"digest", b"digest"], seconds_of) is coding
    assert coding.begun("ab", [b"digest", b"other"], seconds_of).differences is not kept
    assert coding.begun("ab", [b"digest", b""], seconds_of).differences is not kept
    # Somebody is missing, whose values are in the reference.
    assert coding.begun("a", [b"digest"], seconds_of).differences is not kept
    coding.reset()
    assert coding.reference == b""
    plain = CodecPair(Largest(0.1), None, "ef").coding(coding.up.floating, COUNT)  # type: ignore[union-attr]
    assert plain.begun("ab", [b"", b"x"], seconds_of) is plain


def test_the_residual_of_results_is_added_where_it_belongs() -> None:
    residual = DownlinkResidual()
    mean = torch.arange(12.0)
    assert residual.settle([(8, torch.full((4,), 0.5)), (0, torch.full((5,), 0.25))]) == 0
    outgoing = residual.outgoing(mean[3:10], 3)
    expected = [3.25, 4.25, 5, 6, 7, 8.5, 9.5]
    assert outgoing.tolist() == expected
    assert mean.tolist() == list(range(12)), "what it is given stays as it is"
    # Now elements 2 to 8 are ours: of the nine that were owed, three remain.
    assert residual.settle([(2, torch.zeros(7))]) == 9 - 4
    residual.reset()
    assert torch.equal(residual.outgoing(mean, 0), mean)


def test_what_a_result_cannot_hold_is_no_debt() -> None:
    class Narrow(Largest):
        def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
            super().decode(frame, out)
            out += torch.tensor([-0.5, torch.inf, torch.nan])

    sent = torch.tensor([1.0, 1e30, 2.0])
    Narrow(1.0).encode_keeping_rest(sent, 0)
    assert sent.tolist() == [0.5, 0, 0]
    residual = DownlinkResidual()
    residual.settle([(0, torch.tensor([3e38]))])
    assert residual.outgoing(torch.tensor([3e38]), 0).isfinite().all()


@pytest.mark.parametrize("kind", FEEDBACK_KINDS[1:])
def test_the_caller_may_prefer_another_type(kind: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        feedback = feedback_named(kind, COUNT)
        assert feedback is not None
        values = torch.ones(COUNT, dtype=torch.float32)
        feedback.settle(values, 0, 2.0, feedback.outgoing(values, 0, 2.0) / 2)
        assert feedback.outgoing(values, 0, 2.0).dtype == torch.float32
        feedback.restore(feedback.snapshot())
    finally:
        torch.set_default_dtype(torch.float32)
