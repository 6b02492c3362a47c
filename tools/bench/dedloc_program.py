"""The linear program of the DeDLOC paper, a rate for each pair of peers: what plans are held to.

Our own plans come from water-filling over one share for each member, and the paper's program is
wider: it knows who sends how fast to whom, and an aggregator may send some contributor less than
its whole share. So it is a bound that our plan cannot beat, found by other means.

    variables    a_ij  rate at which i sends its vector's parts to j
                 g_ij  rate at which i sends averages to j
                 m_i   the slowest of the parts that come to i, min over k of a_ki
    maximise     ξ     rate at which the slowest contributor gets averages, Σ_i g_ij
    subject to   g_ij ≤ m_i ≤ a_ki
                 Σ_j (a_ij + g_ij) ≤ u_i, Σ_j (a_ji + g_ji) ≤ d_i, without what i keeps for itself

Source: Diskin et al., Distributed Deep Learning in Open Collaborations, 2021, section 3.2. Who
computes, c_i, is given here.
"""

from __future__ import annotations

from collections.abc import Sequence

from averaging import Capacity


def seconds_per_byte(capacities: Sequence[Capacity]) -> float:
    """How long the best plan takes for each byte of the vector.

    Args:
        capacities: at least two that contribute and one that aggregates; all rates known.

    Raises:
        ValueError: there is nothing to plan, or a rate is not known.
    """
    # Slow to import, and useless to other benchmarks.
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    contributors = [i for i, one in enumerate(capacities) if one.contributes]
    owners = [i for i, one in enumerate(capacities) if one.aggregates]
    if len(contributors) < 2 or not owners:
        raise ValueError("a plan needs two contributors and somebody who averages")
    ups = [_known(one.up_bytes_per_s) for one in capacities]
    downs = [_known(one.down_bytes_per_s) for one in capacities]
    # Rates count in what the fastest has, lest numbers be extreme.
    unit = max(ups + downs)
    pairs = [(i, j) for j in owners for i in contributors]
    part = {pair: number for number, pair in enumerate(pairs)}
    average = {(j, i): len(pairs) + number for (i, j), number in part.items()}
    slowest = {j: 2 * len(pairs) + number for number, j in enumerate(owners)}
    speed = 2 * len(pairs) + len(owners)

    rows: list[tuple[dict[int, float], float]] = []
    for i, j in pairs:
        rows.append(({average[j, i]: 1.0, slowest[j]: -1.0}, 0.0))
        if i != j:
            rows.append(({slowest[j]: 1.0, part[i, j]: -1.0}, 0.0))
    for i in contributors:
        rows.append(({speed: 1.0} | {average[j, i]: -1.0 for j in owners}, 0.0))
    for peer in range(len(capacities)):
        flows = [*part.items(), *average.items()]
        sent = {column: 1.0 for (i, j), column in flows if i == peer != j}
        received = {column: 1.0 for (i, j), column in flows if j == peer != i}
        rows += [(sent, ups[peer] / unit), (received, downs[peer] / unit)]

    entries = [
        (n, column, value) for n, (row, _) in enumerate(rows) for column, value in row.items()
    ]
    numbers, columns, values = zip(*entries, strict=True)
    solution = linprog(
        [0.0] * speed + [-1.0],
        csr_array((values, (numbers, columns)), shape=(len(rows), speed + 1)),
        [limit for _, limit in rows],
        method="highs",
    )
    if not solution.success:
        raise ValueError(f"the program has no solution: {solution.message}")
    return 1 / (float(solution.x[speed]) * unit)


def _known(bytes_per_s: float | None) -> float:
    if not bytes_per_s:
        raise ValueError("the program needs rates above 0")
    return bytes_per_s
