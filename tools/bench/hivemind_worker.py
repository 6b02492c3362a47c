"""One process that averages with hivemind, run by a Python that has it and none of our packages.

    PYTHON -I tools/bench/hivemind_worker.py RANK

It takes the orders of tools.bench.allreduce_worker, and puts the same numbers into its vectors.
Its settings are those of hivemind's own benchmark, with one group of all peers. Hivemind is no
dependency of ours, so nothing imports it but by its name.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from importlib import import_module
from typing import Any, NoReturn

import numpy as np

PERIOD, PEER_STEP, ROUND_STEP = 65_521, 977, 131
"""As in tools.bench.vectors, which cannot be imported here."""
_STEP_S_MAX = 120.0
_MATCHMAKING_S_MIN, _REQUEST_S_MAX = 2.0, 1.0
_LOOK_S = 0.001
"""How often the stage of a round is looked at."""
_HOST = {
    "start": True,
    "host_maddrs": ["/ip4/127.0.0.1/tcp/0"],
    # Nobody else is wanted, and nobody is asked.
    "nat_port_map": False,
    "auto_nat": False,
    "use_relay": False,
}


def pattern_of(rank: int, round_index: int) -> Any:
    """What the peer of this rank repeats in this round: shape (PERIOD,), float32."""
    normal = np.random.default_rng(0).standard_normal(PERIOD, dtype=np.float32)
    return np.roll(normal, -(PEER_STEP * rank + ROUND_STEP * round_index))


def error_of(values_V: Any, peers: int, round_index: int) -> float:
    """The largest difference of any element from the mean of all peers' vectors."""
    mean = sum(pattern_of(rank, round_index).astype(np.float64) for rank in range(peers)) / peers
    largest = 0.0
    for start in range(0, len(values_V), PERIOD):
        block = values_V[start : start + PERIOD]
        largest = float(np.maximum(largest, np.abs(block - mean[: len(block)]).max()))
    return largest


def session_cpu_s() -> float:
    """Processor seconds of all living processes of this session: hivemind starts several."""
    ticks = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # it is gone
            continue
        if int(fields[3]) == os.getsid(0):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Orders:
    """The process's own end of its pipe, a line of JSON each way."""

    def __init__(self) -> None:
        self._in = os.fdopen(os.dup(0), encoding="utf-8")
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        # What a library prints must not pass for an answer.
        os.dup2(2, 1)

    def next(self) -> dict[str, Any]:
        """The next order; the process ends when the parent is gone."""
        line = self._in.readline()
        if not line:
            end()
        order: dict[str, Any] = json.loads(line)
        return order

    def answer(self, result: dict[str, Any]) -> None:
        """Answer an order."""
        self._out.write(json.dumps(result) + "\n")
        self._out.flush()


def end() -> NoReturn:
    """End this process and all that hivemind has started in its group."""
    os.killpg(os.getpgid(0), signal.SIGKILL)
    raise AssertionError("a killed process goes no further")


class Peer:
    """One averager, for one size of vector."""

    def __init__(self, dht: Any, rank: int, peers: int, opened: dict[str, Any]) -> None:
        import torch

        hivemind, codecs = import_module("hivemind"), import_module("hivemind.compression")
        self._rank, self._peers, self._round_index = rank, peers, 0
        self._cpu_before_s = 0.0
        half = opened["dtype"] == "float16"
        self._averager = hivemind.DecentralizedAverager(
            [torch.zeros(opened["elements"])],
            dht,
            prefix=opened["name"],
            start=True,
            target_group_size=peers,
            min_matchmaking_time=_MATCHMAKING_S_MIN,
            request_timeout=_REQUEST_S_MAX,
            compression=codecs.Float16Compression() if half else codecs.NoCompression(),
        )
        # As tools.heap does for ours.
        gc.collect()
        gc.freeze()

    def prepare(self, round_index: int) -> dict[str, Any]:
        """Put in what this peer contributes to the round."""
        self._round_index = round_index
        pattern = pattern_of(self._rank, round_index)
        with self._averager.get_tensors() as (tensor,):
            values_V = tensor.numpy()
            for start in range(0, len(values_V), PERIOD):
                block = values_V[start : start + PERIOD]
                block[:] = pattern[: len(block)]
        return {}

    def go(self, at_s: float) -> dict[str, Any]:
        """Average once, and say how long it took to find the group and to average in it."""
        averaging = import_module("hivemind.averaging.control").AveragingStage.RUNNING_ALLREDUCE
        time.sleep(max(0.0, at_s - time.perf_counter()))
        self._cpu_before_s, begun_s = session_cpu_s(), time.perf_counter()
        control = self._averager.step(wait=False, timeout=_STEP_S_MAX, allow_retries=False)
        found_s = None
        while not control.done():
            if found_s is None and control.stage == averaging:
                found_s = time.perf_counter()
            time.sleep(_LOOK_S)
        try:
            group = control.result() or {}
        except Exception as exc:
            # It finds no group at times, and goes on: a round without anybody.
            print(f"a round failed: {exc!r}", file=sys.stderr)
            group = {}
        ended_s = time.perf_counter()
        found_s = found_s or ended_s
        return {
            "begun_s": begun_s,
            "ended_s": ended_s,
            "matchmaking_s": found_s - begun_s,
            "transfer_s": ended_s - found_s,
            "group_size": len(group),
        }

    def check(self) -> dict[str, Any]:
        """What the round cost, and how right it is."""
        cpu_s = session_cpu_s() - self._cpu_before_s
        with self._averager.get_tensors() as (tensor,):
            error_max = error_of(tensor.numpy(), self._peers, self._round_index)
        return {"cpu_s": cpu_s, "error_max": error_max}

    def close(self) -> None:
        """Stop its process."""
        self._averager.shutdown()


def average(orders: Orders, rank: int) -> NoReturn:
    """Take orders until the parent is gone."""
    import torch

    hivemind = import_module("hivemind")
    torch.set_num_threads(1)
    # The others need the first one's addresses to begin.
    dht = hivemind.DHT(**_HOST) if rank == 0 else None
    orders.answer({"hello": [str(one) for one in dht.get_visible_maddrs()] if dht else []})
    hellos = orders.next()["hellos"]
    if dht is None:
        dht = hivemind.DHT(initial_peers=hellos[0], **_HOST)
    orders.answer({})
    peer: Peer | None = None
    while True:
        order = orders.next()
        if order["do"] == "open":
            if peer is not None:
                peer.close()
            peer = Peer(dht, rank, len(hellos), order)
            orders.answer({})
            continue
        assert peer is not None
        if order["do"] == "prepare":
            orders.answer(peer.prepare(order["round"]))
        elif order["do"] == "go":
            orders.answer(peer.go(order["at_s"]))
        else:
            orders.answer(peer.check())


def main() -> None:
    """Run as the argument says; an error is an answer, too."""
    orders = Orders()
    try:
        average(orders, int(sys.argv[1]))
    except Exception as exc:
        orders.answer({"error": f"{type(exc).__name__}: {exc}"})
        raise


if __name__ == "__main__":
    main()
