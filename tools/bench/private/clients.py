"""What a pass over all data moves by number of clients: split, and federated beside it.

For p samples, a cut q wide, N parameters and K clients, a pass moves 2pq elements if the model is
split and clients keep their layers, whatever K is, and 2KN if it is averaged; so splitting moves
less from K = pq/N on. Split bytes are those of real sessions, labels included; federated ones are
counted as the survey does, once up and once down for each client and round, as with a server.

Source: Singh et al., "Detailed comparison of communication efficiency of split learning and
federated learning", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tools.bench.private.frame import BATCH, FRONT_LAYERS, RATE, WIDTH, Frame, sgd
from tools.bench.private.nopeek import digits
from tools.bench.private.split_world import train_split
from tools.bench.progress import Steps
from tools.bench.report import Budget, Row
from training.split import cut
from training.strategies import FederatedAveraging
from training.strategies.simulate import Simulation
from training.strategies.tasks import ClassifierTask

COLUMNS = ("clients", "split_kb", "federated_kb")
CROSSOVER_GAP_MAX = 1.0


@dataclass(frozen=True)
class ClientsOptions:
    """How much is measured."""

    clients: Sequence[int] = (1, 2, 4, 5, 6, 8, 12)
    """Rising, and such that the first splits cheaper or not, and the last does."""


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
    # What is counted are exchanges, so one local step stands for all of the pass.
    swarm = Simulation(FederatedAveraging(every=1, fraction=1.0), task, [start] * clients, RATE)
    swarm.run(1)
    return {
        "clients": clients,
        "split_kb": (moved.payload_bytes_sent + moved.payload_bytes_received) / 1e3,
        "federated_kb": swarm.traffic.published * start.nbytes / 1e3,
        "split_elements": moved.values_sent + moved.values_received,
        "parameters": start.size,
    }


def crossover(rows: Sequence[Row], key: str) -> float:
    """At how many clients federated rounds begin to move more, by lines between what was measured.

    Args:
        key: of what the split moved, in kilobytes.

    Returns:
        Infinity if they never do.
    """
    last: tuple[float, float] | None = None
    for row in rows:
        clients = float(row["clients"])
        more = float(row["federated_kb"]) - float(row[key])
        if more >= 0:
            if last is None or more == last[1]:
                return clients
            return last[0] + (clients - last[0]) * -last[1] / (more - last[1])
        last = clients, more
    return float("inf")


def budgets(rows: Sequence[Row], *, samples: int) -> list[Budget]:
    """Judge the counters by both formulae."""
    expected = 2 * samples * WIDTH
    off = max(abs(row["split_elements"] - expected) for row in rows)
    measured = crossover(rows, "split_kb")
    formula = samples * WIDTH / rows[0]["parameters"]
    return [
        Budget("elements of a pass against 2pq", off, 0, "elements off", "<="),
        Budget(
            f"clients from which averaging moves more ({measured:.2f}) against pq/N",
            abs(measured - formula),
            CROSSOVER_GAP_MAX,
            "clients",
            "<=",
        ),
    ]
