"""Events of a run, as training.run_log tells them, for those who show them."""

from __future__ import annotations

from typing import Any

BEGAN_S = 1_700_000_000.0


def started(step: int = 0) -> dict[str, Any]:
    return {
        "time_s": BEGAN_S,
        "event": "started",
        "peer_id": "12D3Koo",
        "addresses": [],
        "run": "digits",
        "step": step,
    }


def progress(step: int, *, samples: int = 100, peers: int = 3) -> dict[str, Any]:
    return {
        "time_s": BEGAN_S + 2 * step,
        "event": "progress",
        "step": step,
        "samples": 40,
        "samples_per_s": 30.0,
        "swarm_samples": samples,
        "swarm_samples_per_s": 90.0,
        "global_batch": 256,
        "peers": peers,
        "paths": {},
    }


def stepped(step: int, *, loss: float = 0.5) -> dict[str, Any]:
    return {
        "time_s": BEGAN_S + 2 * step,
        "event": "step",
        "step": step,
        "loss": loss,
        "samples": 80,
        "seconds": 2.0,
        "round": {"members": ["a", "b"], "fractions": {}, "seconds": 0.25, "succeeded": True},
    }


def round_failed(step: int) -> dict[str, Any]:
    return {
        "time_s": BEGAN_S + 2 * step,
        "event": "round_failed",
        "step": step,
        "reason": "nobody came",
        "round": None,
    }
