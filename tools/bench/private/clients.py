"""What a pass over all data moves by number of clients: split, and federated beside it.

For p samples, a cut q wide, N parameters and K clients, a pass moves 2pq elements if the model is
split and clients keep their layers, whatever K is. If it is averaged it moves 2KN as the survey
counts, once up and once down for each client, as with a server; so splitting moves less from
K = pq/N on. Our peers have no server: each is one for its span of the vector, and a butterfly of K
moves 2(K − 1)N, so the lines cross one client later. Both are measured: bytes of real sessions,
labels included, and of a real round of averaging among K nodes.

Source: Singh et al., "Detailed comparison of communication efficiency of split learning and
federated learning", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tools.bench.private.frame import BATCH, FRONT_LAYERS, RATE, WIDTH, Frame, sgd
from tools.bench.private.means import PLAIN, RealMeans
from tools.bench.private.nopeek import digits
from tools.bench.private.split_world import train_split
from tools.bench.progress import Steps
from tools.bench.report import Budget, Row
from training.split import cut
from training.strategies import FederatedAveraging
from training.strategies.simulate import Simulation
from training.strategies.tasks import ClassifierTask

COLUMNS = ("clients", "split_kb", "federated_kb", "formula_kb")
"""Federated as measured, and by the formula with a server."""
CROSSOVER_GAP_MAX = 0.5
"""Labels move it by 0.16. A server in a butterfly's place would cross a whole client earlier."""


@dataclass(frozen=True)
class ClientsOptions:
    """How much is measured."""

    clients: Sequence[int] = (2, 4, 5, 6, 7, 8, 12)
    """Rising; each at least 2, since one alone has nobody to average with."""


def run_clients(options: ClientsOptions, steps: Steps) -> tuple[list[Row], list[Budget]]:
    """Count a pass for each number of clients, of which each is a step, and find the crossover."""
    frame = Frame(digits(), passes=1, seed=0)
    rows = []
    for clients in options.clients:
        steps.case(f"a pass of {clients} clients")
        rows.append(_row(frame, clients))
        steps.step()
    return rows, budgets(rows, samples=len(frame.data.train_labels))


def _row(frame: Frame, clients: int) -> Row:
    """Both ways, in kilobytes of all clients together."""
    data, model = frame.data, frame.model()
    parts = cut(model, FRONT_LAYERS, example=data.test_inputs[:1])
    order = frame.batches(torch.arange(len(data.train_labels)))[0]
    shares = [[frame.examples(batch) for batch in order[one::clients]] for one in range(clients)]
    moved = train_split(parts, shares, sgd).server
    task = ClassifierTask(data, frame.model, workers=clients, batch=BATCH, seed=frame.seed)
    start = task.start(frame.seed)
    # What is measured is the exchange, so one local step stands for all of the pass.
    strategy = FederatedAveraging(every=1, fraction=1.0)
    with RealMeans(PLAIN, clients) as means:
        Simulation(strategy, task, [start] * clients, RATE, average=means).run(1)
    return {
        "clients": clients,
        "split_kb": (moved.payload_bytes_sent + moved.payload_bytes_received) / 1e3,
        "federated_kb": means.sent_bytes / 1e3,
        "formula_kb": 2 * clients * start.nbytes / 1e3,
        "split_elements": moved.values_sent + moved.values_received,
        "federated_elements": means.sent_bytes // start.itemsize,
        "parameters": start.size,
    }


def crossover(rows: Sequence[Row]) -> float:
    """At how many clients federated rounds begin to move more, by lines between what was measured.

    Returns:
        Infinity if they never do.
    """
    last: tuple[float, float] | None = None
    for row in rows:
        clients = float(row["clients"])
        more = float(row["federated_kb"]) - float(row["split_kb"])
        if more >= 0:
            if last is None or more == last[1]:
                return clients
            return last[0] + (clients - last[0]) * -last[1] / (more - last[1])
        last = clients, more
    return float("inf")


def budgets(rows: Sequence[Row], *, samples: int) -> list[Budget]:
    """Judge what was measured by the formulae."""
    pq = samples * WIDTH
    split_off = max(abs(row["split_elements"] - 2 * pq) for row in rows)
    federated_off = max(
        abs(row["federated_elements"] - 2 * (row["clients"] - 1) * row["parameters"])
        for row in rows
    )
    measured = crossover(rows)
    return [
        Budget("elements of a pass against 2pq", split_off, 0, "elements off", "<="),
        Budget("elements of a round against 2(K − 1)N", federated_off, 0, "elements off", "<="),
        Budget(
            f"clients from which averaging moves more ({measured:.2f}) against pq/N + 1",
            abs(measured - pq / rows[0]["parameters"] - 1),
            CROSSOVER_GAP_MAX,
            "clients",
            "<=",
        ),
    ]
