"""`manyhands bench dht`: reads and writes in swarms of real nodes, beside hivemind's DHT."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from tools.bench.processes import RivalFailed, Worker
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

COLUMNS = (
    "rival",
    "nodes",
    "processes",
    "operation",
    "times",
    "median_ms",
    "p99_ms",
    "success",
    "received_kib",
)
NAMES = {"ours": "ours", "hivemind": "hivemind"}
NODES = (16, 64)
JUDGED_NODES = 16
PUT_MS_MAX = COLD_GET_MS_MAX = 10.0
SURVIVING_MIN = 0.98
"""With 5 replicas, 2 keys in 1 000 lose all of them; so many of a hundred are bad luck."""
BULK_KEYS, SUBKEYS, CHANGED = 64, 256, 8
KILLED = 0.3
PROCESSES_MAX = 16
"""More nodes share processes: each Python of ours takes 70 MB, each of hivemind's 300."""
_JOIN_S_MAX, _ORDER_S_MAX = 120.0, 60.0

PUT, COLD, WARM, FRESH = "put", "cold get", "warm get", "get asked again"
PUT_MANY, BULK = f"put {BULK_KEYS} keys at once", f"bulk get of {BULK_KEYS} keys"
FILL, FIRST_READ = f"put {SUBKEYS} subkeys at once", f"first read of {SUBKEYS} subkeys"
POLL = f"poll of {SUBKEYS} subkeys, {CHANGED} new"
AFTER = f"cold get after SIGKILL of {KILLED:.0%}"
OPERATIONS = (PUT, COLD, WARM, FRESH, PUT_MANY, BULK, FILL, FIRST_READ, POLL, AFTER)


@dataclass(frozen=True)
class DhtOptions:
    """How much is measured."""

    nodes: Sequence[int] = NODES
    rounds: int = 10
    keys: int = 10
    """Written and read one after another in each round."""
    seed: int = 0
    """Decides who writes, who reads, and who is killed."""
    hivemind_python: str | None = None
    """A Python that has hivemind."""

    def rivals(self) -> list[str]:
        """Who is measured at all."""
        return [one for one in NAMES if one != "hivemind" or self.hivemind_python is not None]


@dataclass
class Measured:
    """One operation of one rival in swarms of one size."""

    seconds: list[float] = field(default_factory=list)
    succeeded: int = 0
    received_bytes: list[float] = field(default_factory=list)

    def add(self, answer: dict[str, Any]) -> None:
        """What a worker says."""
        self.seconds += answer["seconds"]
        self.succeeded += answer["succeeded"]
        if answer.get("received_bytes") is not None:
            self.received_bytes.append(answer["received_bytes"])

    def figures(self) -> Row:
        """The median, the 99th percentile, the largest, and how often it went well."""
        in_order = sorted(self.seconds)
        received = statistics.median(self.received_bytes) / 1024 if self.received_bytes else None
        return {
            "times": len(in_order),
            "median_ms": statistics.median(in_order) * 1e3,
            "p99_ms": in_order[ceil(0.99 * len(in_order)) - 1] * 1e3,
            "max_ms": in_order[-1] * 1e3,
            "success": self.succeeded / len(in_order),
            "received_kib": received,
        }


class Swarm:
    """The nodes of one rival, some to a process."""

    def __init__(self, rival: str, nodes: int, rng: random.Random) -> None:
        self.rival = rival
        self.nodes = nodes
        self.measured: dict[str, Measured] = {}
        self.processes = min(nodes, PROCESSES_MAX)
        self._rng = rng
        self._workers: list[Worker] = []
        self._alive: list[int] = list(range(self.processes))
        self._keys: list[str] = []
        self._made = 0
        self._versions: list[int] = []
        self._poller = (0, 0)

    def _share(self, process: int) -> int:
        """How many nodes a process has."""
        return len(range(process, self.nodes, self.processes))

    def open(self, stack: ExitStack, python: str | None) -> None:
        """Start its processes, and have each join; raises RivalFailed."""
        for number in range(self.processes):
            name = f"{NAMES[self.rival]}, process {number}"
            if self.rival == "hivemind":
                worker = Worker(name, "tools.bench.hivemind_dht_worker", python=python)
            else:
                worker = Worker(name, "tools.bench.dht_worker")
            stack.callback(worker.end)
            self._workers.append(worker)
        initial: list[str] = []
        for process, worker in enumerate(self._workers):
            # One by one: a crowd that joins at once knows only whom it came with.
            nodes = self._share(process)
            answer = worker.ask(
                timeout_s=_JOIN_S_MAX, do="join", nodes=nodes, initial_peers=initial
            )
            initial = initial or answer["initial_peers"]

    def _someone(self, but: tuple[int, int] | None = None) -> tuple[int, int]:
        """A living node: its process, and its number there."""
        while True:
            process = self._rng.choice(self._alive)
            one = (process, self._rng.randrange(self._share(process)))
            if one != but:
                return one

    def _ask(self, one: tuple[int, int], operation: str, **order: Any) -> None:
        process, node = one
        answer = self._workers[process].ask(
            timeout_s=2 * _ORDER_S_MAX, limit_s=_ORDER_S_MAX, node=node, **order
        )
        self.measured.setdefault(operation, Measured()).add(answer)

    def _new_keys(self, count: int) -> list[str]:
        self._made += count
        return [f"bench/{number}" for number in range(self._made - count, self._made)]

    def one_by_one(self, count: int) -> None:
        """Somebody writes keys, and somebody else reads each of them three times."""
        keys = self._new_keys(count)
        self._keys += keys
        writer = self._someone()
        reader = self._someone(but=writer)
        self._ask(writer, PUT, do="put", keys=keys)
        self._ask(reader, COLD, do="get", keys=keys, warm=False, first=True)
        self._ask(reader, WARM, do="get", keys=keys, warm=True, first=False)
        self._ask(reader, FRESH, do="get", keys=keys, warm=False, first=False)

    def many(self) -> None:
        """Somebody writes many keys at once, and somebody else reads them at once."""
        keys = self._new_keys(BULK_KEYS)
        writer = self._someone()
        self._ask(writer, PUT_MANY, do="put_many", keys=keys)
        self._ask(self._someone(but=writer), BULK, do="bulk", keys=keys)

    def dictionary(self) -> None:
        """At first all of a dictionary is written and read, later some of it."""
        key = "bench/dictionary"
        entries = list(range(SUBKEYS))
        if not self._versions:
            self._versions = [0] * SUBKEYS
            writer = self._someone()
            self._poller = self._someone(but=writer)
            self._ask(writer, FILL, do="fill", key=key, entries=entries, version=0)
            self._ask(self._poller, FIRST_READ, do="poll", key=key, versions=self._versions)
            # Not all replicas were asked at first.
            self._ask(self._poller, "second read", do="poll", key=key, versions=self._versions)
            return
        version = max(self._versions) + 1
        changed = sorted(self._rng.sample(entries, CHANGED))
        for index in changed:
            self._versions[index] = version
        writer = self._someone(but=self._poller)
        self._ask(
            writer, "put of what changed", do="fill", key=key, entries=changed, version=version
        )
        self._ask(self._poller, POLL, do="poll", key=key, versions=self._versions)

    def kill_some(self) -> float:
        """Kill so many of its processes at once; returns the part of its nodes that they had."""
        count = max(1, round(KILLED * self.processes))
        victims = self._rng.sample(range(self.processes), count)
        self._alive = [index for index in range(self.processes) if index not in victims]
        for index in victims:
            self._workers[index].end()
        return sum(self._share(index) for index in victims) / self.nodes

    def read_after(self) -> None:
        """All keys that were written one by one are read by survivors."""
        for key in self._keys:
            self._ask(self._someone(), AFTER, do="get", keys=[key], warm=False, first=False)

    def rows(self) -> list[Row]:
        """What the report says of it."""
        return [
            {
                "rival": NAMES[self.rival],
                "nodes": self.nodes,
                "processes": self.processes,
                "operation": operation,
                **self.measured[operation].figures(),
            }
            for operation in OPERATIONS
            if operation in self.measured
        ]


def run_dht(options: DhtOptions, steps: Steps) -> Report:
    """Measure swarms of each size; the rounds of all rivals take turns."""
    report = Report("dht", COLUMNS)
    if options.hivemind_python is None:
        report.skip(NAMES["hivemind"], "no Python that has it was named with --hivemind-python")
    steps.expect(len(options.nodes) * len(options.rivals()) * (options.rounds + 2))
    for nodes in options.nodes:
        with ExitStack() as stack:
            _measure(options, nodes, report, steps, stack)
    report.budgets = budgets(report.rows)
    return report


def _measure(
    options: DhtOptions, nodes: int, report: Report, steps: Steps, stack: ExitStack
) -> None:
    """One size of swarm; a rival that fails leaves, with what it had so far."""
    swarms: dict[str, Swarm] = {}
    failed: list[str] = []

    def turn(swarm: Swarm, text: str, *work: Callable[[], object]) -> None:
        name = NAMES[swarm.rival]
        steps.case(f"{name}, {nodes} nodes in {swarm.processes} processes: {text}")
        try:
            for one in work:
                one()
        except RivalFailed as exc:
            report.skip(f"{name}, {nodes} nodes: {text}", str(exc))
            failed.append(swarm.rival)
        steps.step()

    def all_turns(text: str, works: Callable[[Swarm], Sequence[Callable[[], object]]]) -> None:
        for swarm in swarms.values():
            if swarm.rival not in failed:
                turn(swarm, text, *works(swarm))

    for rival in options.rivals():
        swarms[rival] = Swarm(rival, nodes, random.Random(options.seed))
    all_turns("joining", lambda swarm: [lambda: swarm.open(stack, options.hivemind_python)])
    for number in range(1, options.rounds + 1):
        all_turns(
            f"round {number} of {options.rounds}",
            lambda swarm: [
                lambda: swarm.one_by_one(options.keys),
                swarm.many,
                swarm.dictionary,
            ],
        )
    all_turns(f"SIGKILL of {KILLED:.0%}", lambda swarm: [swarm.kill_some, swarm.read_after])
    for swarm in swarms.values():
        report.rows += swarm.rows()


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge our own rows: the promised times, and that nothing is lost."""
    ours = {(row["nodes"], row["operation"]): row for row in rows if row["rival"] == NAMES["ours"]}
    judged = []
    for operation, limit in ((PUT, PUT_MS_MAX), (COLD, COLD_GET_MS_MAX)):
        if (row := ours.get((JUDGED_NODES, operation))) is not None:
            name = f"ours, {JUDGED_NODES} nodes: {operation}"
            judged.append(Budget(name, row["median_ms"], limit, "ms", "<="))
    for nodes in dict.fromkeys(size for size, _ in ours):
        sound = [row["success"] for (n, what), row in ours.items() if n == nodes and what != AFTER]
        name = f"ours, {nodes} nodes: of each operation, as much goes well"
        if sound:
            judged.append(Budget(name, min(sound), 1.0, "of all", ">="))
        if (row := ours.get((nodes, AFTER))) is not None:
            name = f"ours, {nodes} nodes: keys read after SIGKILL of {KILLED:.0%}"
            judged.append(Budget(name, row["success"], SURVIVING_MIN, "of all", ">="))
    return judged
