"""What must hold after a round of the fault driver, whatever befell it (core)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.soak.round_plan import EVERYBODY, PEERS, SIGNALS, Plan, Vector
from tests.soak.round_swarm import DEADLINE_S, LATE_S_MAX, Happened

RELATIVE_ERROR_MAX = 1e-6
"""Of a mean of float32, relative to the mean of the magnitudes in it."""
_ODD_ELEMENTS_MAX = 50
"""Elements at which means with and without a member may be equal by chance."""
_BLOCK_ELEMENTS = 1024

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def complaints(plan: Plan, peer_ids: Sequence[str], happened: Happened) -> list[str]:
    """Everything that is wrong with a round, but for the values themselves."""
    found = [
        f"peer {rank} said nothing of its step: it {why}"
        for rank, why in happened.silent.items()
        if not (rank == plan.victim and plan.probe == "kill")
    ]
    for rank, said in sorted(happened.answers.items()):
        found += _check_one(plan, rank, said, happened)
    winners = [happened.answers[rank] for rank in happened.succeeded()]
    if len({said["report"]["digest"] for said in winners}) > 1:
        found.append("two successes with different digests")
    if len({said["sha256"] for said in winners}) > 1:
        found.append("two successes with different bits")
    for rank in plan.healthy():
        if rank in happened.answers:
            found += _check_healthy(plan, peer_ids, rank, happened.answers[rank])
    if plan.victim == EVERYBODY:
        found += _check_nobody(happened)
    return found


def _check_one(plan: Plan, rank: int, said: Mapping[str, Any], happened: Happened) -> list[str]:
    found = []
    late_s = said["seconds"] - DEADLINE_S
    if happened.continued_s is not None and rank == plan.victim:
        # Its time went on while it was stopped.
        late_s = min(late_s, said["ended_s"] - happened.continued_s)
    if late_s > LATE_S_MAX:
        found.append(f"peer {rank}'s step ended {late_s:.2f} s after its deadline")
    if said["outcome"] != "success" and said["sha256"] != happened.before[rank]:
        found.append(f"peer {rank}'s step was {said['outcome']} and changed its tensors")
    if said["outcome"] in ("failed", "undecided") and not said["report"]["reason"]:
        found.append(f"peer {rank} does not say why its step {said['outcome']}")
    if said["outcome"] == "cancelled" and plan.probe != "cancel":
        found.append(f"peer {rank}'s step was cancelled by nobody")
    return found


def _check_healthy(
    plan: Plan, peer_ids: Sequence[str], rank: int, said: Mapping[str, Any]
) -> list[str]:
    """One peer of those whom nothing befell must have succeeded, with all the others of them."""
    if said["outcome"] != "success":
        words = said["report"]["text"] if said["report"] else ""
        return [f"peer {rank} is well, and its step was {said['outcome']}: {words}"]
    members, found = said["report"]["members"], []
    for other in plan.healthy():
        member = members.get(peer_ids[other])
        if member is None:
            found.append(f"peer {rank}'s group lacks peer {other}, who is well")
        elif member["fraction"] != 1.0:
            found.append(
                f"peer {rank} has {member['fraction']:.1%} of peer {other}, who is well: "
                f"{member['reason']}"
            )
    if plan.probe in (*SIGNALS, "cancel", "none"):
        return found
    culprit = members.get(peer_ids[plan.victim], {"fraction": 1.0, "reason": "not a member"})
    reason = {"nan": "non-finite", "outlier": "norm", "zero-weight": "weight 0"}[plan.probe]
    if reason not in culprit["reason"]:
        found.append(f"peer {rank} says of the culprit only {culprit['reason']!r}")
    if culprit["fraction"] == 1.0 or (culprit["fraction"] and plan.probe != "nan"):
        found.append(f"peer {rank} has {culprit['fraction']:.1%} of the culprit")
    return found


def _check_nobody(happened: Happened) -> list[str]:
    return [
        f"all weights are 0, and peer {rank}'s step was {said['outcome']}: "
        f"{said['report']['text'] if said['report'] else ''}"
        for rank, said in sorted(happened.answers.items())
        if said["outcome"] != "failed" or "nobody contributed" not in said["report"]["reason"]
    ]


def value_complaints(
    result: Vector,
    vectors: Sequence[Vector],
    weights: Sequence[float],
    fractions: Sequence[float],
) -> list[str]:
    """Whether a result is the weighted mean that its report claims: shapes (elements,).

    Args:
        fractions: of each peer, how much of the result contains it; 0 for those not in the group.
    """
    if not np.isfinite(result).all():
        return ["a result that is not finite"]
    always = [rank for rank in range(PEERS) if fractions[rank] == 1.0 and weights[rank]]
    partly = [rank for rank in range(PEERS) if 0.0 < fractions[rank] < 1.0]
    unexplained = np.ones(len(result), bool)
    included = {rank: np.zeros(len(result), bool) for rank in partly}
    for size in range(len(partly), -1, -1):
        for some in itertools.combinations(partly, size):
            subset = sorted((*always, *some))
            if subset and unexplained.any():
                fits = unexplained & _is_mean(result, vectors, weights, subset)
                unexplained &= ~fits
                for rank in some:
                    included[rank] |= fits
    found = []
    if count := int(np.count_nonzero(unexplained)):
        where = int(np.flatnonzero(unexplained)[0])
        found.append(f"{count} elements are no mean that the report allows, the first at {where}")
    for rank, flags in included.items():
        found += _check_part(rank, flags, fractions[rank])
    return found


def _is_mean(
    result: Vector, vectors: Sequence[Vector], weights: Sequence[float], subset: Sequence[int]
) -> Flags:
    total, magnitude = np.zeros(len(result)), np.zeros(len(result))
    with np.errstate(invalid="ignore"):
        for rank in subset:
            share = weights[rank] / sum(weights[other] for other in subset)
            total += vectors[rank] * share
            magnitude += np.abs(vectors[rank]) * share
        close = np.abs(result - total) <= RELATIVE_ERROR_MAX * magnitude
    flags: Flags = close & np.isfinite(total)
    return flags


def _check_part(rank: int, included: Flags, fraction: float) -> list[str]:
    found = []
    count, claimed = int(np.count_nonzero(included)), fraction * len(included)
    if abs(count - claimed) > _ODD_ELEMENTS_MAX:
        found.append(f"{count} elements contain peer {rank}, and the report says {claimed:.0f}")
    blocks = included[: len(included) // _BLOCK_ELEMENTS * _BLOCK_ELEMENTS]
    shares = blocks.reshape(-1, _BLOCK_ELEMENTS).mean(axis=1)
    # A member is in a prefix of each aggregator's span.
    changes = int(np.count_nonzero(np.diff(shares > 0.5)))
    mixed = int(np.count_nonzero((shares > 0.1) & (shares < 0.9)))
    if changes > 2 * PEERS or mixed > 2 * PEERS:
        found.append(f"peer {rank} is in {changes} scattered pieces of the result")
    return found
