"""Time one averaging round of N peers in N processes on loopback, beside gloo in the same run.

    .venv/bin/python benchmarks/averaging_round.py --peers 4 --elements 1000000 --rounds 5 [--json]

Both average the same float32 vectors. Gloo sends plain text and has no membership to find, no
agreement to reach and no faults to survive; it shows what the machine can do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

VERSION = 1


def main() -> int:
    """Run what the arguments ask for and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--elements", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 when a budget is missed")
    parser.add_argument("--worker", choices=["manyhands", "gloo"], help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rendezvous", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker == "manyhands":
        return _manyhands_worker(options)
    if options.worker == "gloo":
        return _gloo_worker(options)
    started = time.perf_counter()
    rows = [_measure(rival, options) for rival in ("manyhands", "gloo")]
    ratio = rows[0]["step_seconds_median"] / rows[1]["step_seconds_median"]
    result = {
        "bench": "averaging",
        "version": VERSION,
        "commit": _commit(),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": os.getloadavg()[0],
        },
        "seconds": time.perf_counter() - started,
        "rows": rows,
        "budgets": [
            {
                "name": f"round of {options.peers} × {options.elements} float32 against gloo",
                "measured": ratio,
                "budget": 3.5,
                "unit": "ratio",
                "comparison": "<=",
                "holds": ratio <= 3.5,
            }
        ],
        "skipped": [],
    }
    if options.json:
        print(json.dumps(result))
    else:
        for row in rows:
            print(
                f"{row['rival']:>10}: {row['step_seconds_median'] * 1e3:8.1f} ms a round "
                f"({row['step_seconds_min'] * 1e3:.1f}–{row['step_seconds_max'] * 1e3:.1f}), "
                f"{row['cpu_seconds_per_round']:.3f} CPU-s, largest error {row['error_max']:.1e}"
            )
        print(f"ours / gloo: {ratio:.2f} (budget over standard Noise: 3.5)")
    return 1 if options.check and ratio > 3.5 else 0


def _measure(rival: str, options: argparse.Namespace) -> dict[str, Any]:
    """Start the peers of one rival, let them find each other through our pipes, gather results."""
    command = [sys.executable, __file__, "--worker", rival]
    command += ["--peers", str(options.peers), "--elements", str(options.elements)]
    command += ["--rounds", str(options.rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    peers = [
        subprocess.Popen(
            [*command, "--rank", str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(options.peers)
    ]
    try:
        hellos = [_line_of(peer) for peer in peers]
        for peer in peers:
            assert peer.stdin is not None
            peer.stdin.write(json.dumps(hellos) + "\n")
            peer.stdin.flush()
        results = [json.loads(_line_of(peer)) for peer in peers]
        for peer in peers:
            peer.communicate(timeout=30)
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()
    # A round is over when its slowest peer has finished.
    steps = [max(times) for times in zip(*(result["steps"] for result in results), strict=True)]
    return {
        "rival": rival,
        "peers": options.peers,
        "elements": options.elements,
        "step_seconds_median": statistics.median(steps),
        "step_seconds_min": min(steps),
        "step_seconds_max": max(steps),
        "cpu_seconds_per_round": sum(result["cpu"] for result in results) / options.rounds,
        "error_max": max(result["error"] for result in results),
    }


def _line_of(peer: subprocess.Popen[str]) -> str:
    assert peer.stdout is not None
    line = peer.stdout.readline()
    if not line:
        raise RuntimeError("a benchmark process ended early; its error stands above")
    return line.strip()


def _manyhands_worker(options: argparse.Namespace) -> int:
    import numpy as np
    import trio

    import averaging
    import p2p

    async def run() -> None:
        vector_V = _vector(options)
        expected_V = _mean(options)
        async with p2p.open_node() as node:
            print(node.addresses[0], flush=True)
            addresses = json.loads(await trio.to_thread.run_sync(sys.stdin.readline))
            peer_ids = []
            for address in addresses:
                if address == node.addresses[0]:
                    peer_ids.append(node.peer_id)
                else:
                    peer_ids.append(p2p.PeerId(address.rsplit("/", 1)[1]))
                    node.add_addresses(peer_ids[-1], [address])
            spec = averaging.TensorSpec.of({"vector": vector_V})
            steps: list[float] = []
            error = 0.0
            async with averaging.open_averager(node, "bench", spec) as averager:
                cpu = 0.0
                for index in range(options.rounds + 1):
                    mine_V = vector_V.copy()
                    cpu_before, before = time.process_time(), time.perf_counter()
                    await averager.step({"vector": mine_V}, deadline_s=120, expected=peer_ids)
                    if index:  # the first round also connects
                        steps.append(time.perf_counter() - before)
                        cpu += time.process_time() - cpu_before
                    error = max(error, float(np.abs(mine_V - expected_V).max()))
            print(json.dumps({"steps": steps, "cpu": cpu, "error": error}), flush=True)
            await trio.to_thread.run_sync(sys.stdin.readline)

    trio.run(run)
    return 0


def _gloo_worker(options: argparse.Namespace) -> int:
    import tempfile

    import numpy as np
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    # Rank 0 makes the rendezvous file; all learn its name through the parent.
    name = ""
    if options.rank == 0:
        handle, name = tempfile.mkstemp(prefix="gloo-")
        os.close(handle)
        os.unlink(name)
    print(name, flush=True)
    name = json.loads(sys.stdin.readline())[0]
    dist.init_process_group(
        "gloo", init_method=f"file://{name}", rank=options.rank, world_size=options.peers
    )
    vector_V, expected_V = _vector(options), _mean(options)
    steps: list[float] = []
    error, cpu = 0.0, 0.0
    for index in range(options.rounds + 1):
        mine = torch.from_numpy(vector_V.copy())
        dist.barrier()
        cpu_before, before = time.process_time(), time.perf_counter()
        dist.all_reduce(mine)
        mine /= options.peers
        if index:
            steps.append(time.perf_counter() - before)
            cpu += time.process_time() - cpu_before
        error = max(error, float(np.abs(mine.numpy() - expected_V).max()))
    dist.destroy_process_group()
    print(json.dumps({"steps": steps, "cpu": cpu, "error": error}), flush=True)
    if options.rank == 0:
        Path(name).unlink(missing_ok=True)
    return 0


def _vector(options: argparse.Namespace, rank: int | None = None) -> Any:
    import numpy as np

    seed = options.rank if rank is None else rank
    return np.random.default_rng(seed).standard_normal(options.elements, dtype=np.float32)


def _mean(options: argparse.Namespace) -> Any:
    import numpy as np

    total = np.zeros(options.elements, dtype=np.float64)
    for rank in range(options.peers):
        total += _vector(options, rank)
    return (total / options.peers).astype(np.float32)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
