"""What computing on hidden numbers costs: homomorphic sums, and private inference of digits.

Sums are encrypted, added and decrypted in this process, each part timed by itself. Inference runs
between two real nodes over loopback, from synchronous code, as a user would run it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from averaging import HomomorphicSpec, adder_untrusted, draw_key
from tools.bench.report import Budget, Row
from training.privacy.inference import (
    FixedNetwork,
    InferenceConfig,
    ask_private,
    fix_network,
    serve_private,
    traffic_bytes,
)

Scheme = Literal["ckks", "paillier"]
CKKS: Scheme = "ckks"
PAILLIER: Scheme = "paillier"
MEMBERS = 3
_SAMPLES_AT_ONCE = 50
_TRAINED_ON = 1500

CKKS_BYTES_PER_ELEMENT_MAX = 40.0
"""2048 numbers take 2 polynomials of 4096 coefficients of 55 bits: 27.5, and headers."""
CKKS_SECONDS_PER_MILLION_MAX = 5.0
PAILLIER_SECONDS_PER_ELEMENT_MAX = 0.02
INFERENCE_BYTES_MAX = 425_000
INFERENCE_SECONDS_MAX = 1.0
"""Of one sample alone, base transfers included."""


@dataclass(frozen=True)
class CryptoOptions:
    """How much is measured."""

    ckks_elements: Sequence[int] = (1_000, 10_000, 100_000)
    paillier_elements: Sequence[int] = (10, 100)
    tries: int = 3
    """The fastest of so many counts, since whatever else runs here only adds."""


def run_sums(options: CryptoOptions | None = None) -> tuple[list[Row], list[Budget]]:
    """Measure encrypted sums of all sizes, and judge the largest.

    Raises:
        ExtraMissing: tenseal or phe is not installed.
    """
    options = options or CryptoOptions()
    rows = [
        *(measure_sum(CKKS, elements, options.tries) for elements in options.ckks_elements),
        *(measure_sum(PAILLIER, elements, options.tries) for elements in options.paillier_elements),
    ]
    return rows, sum_budgets(rows)


def run_inference(options: CryptoOptions | None = None) -> tuple[list[Row], list[Budget]]:
    """Measure private inference with and without a hidden layer; it needs no extra."""
    options = options or CryptoOptions()
    rows = [measure_inference(hidden, options.tries) for hidden in ((), (32,))]
    return rows, inference_budgets(rows)


def measure_sum(scheme: Scheme, elements: int, tries: int) -> Row:
    """Three members' vectors: what each part takes, and how far the sum is off."""
    spec = HomomorphicSpec(elements=elements, scheme=scheme)
    begun_s = time.perf_counter()
    key = draw_key(spec)
    key_s = time.perf_counter() - begun_s
    adder = adder_untrusted(spec, key.modulus)
    limit = spec.magnitude_max
    plain = np.random.default_rng(0).uniform(-limit, limit, (MEMBERS, spec.numbers))
    best: dict[str, float] = {}
    for _ in range(tries):
        times = [time.perf_counter()]
        sent = [key.encrypt(vector) for vector in plain]
        times.append(time.perf_counter())
        total = adder.load_untrusted(sent[0])
        for data in sent[1:]:
            total = adder.add(total, adder.load_untrusted(data))
        summed = adder.dump(total)
        times.append(time.perf_counter())
        got = key.decrypt_untrusted(summed, MEMBERS)
        times.append(time.perf_counter())
        parts = ("encrypt_seconds", "add_seconds", "decrypt_seconds")
        for part, seconds, share in zip(parts, np.diff(times), (MEMBERS, MEMBERS, 1), strict=True):
            best[part] = min(best.get(part, np.inf), float(seconds) / share)
    return {
        "case": f"sum, {scheme}",
        "scheme": scheme,
        "elements": elements,
        "members": MEMBERS,
        "bytes_per_member": len(sent[0]),
        "bytes_per_element": len(sent[0]) / elements,
        "key_seconds": key_s,
        **best,
        "error_max": float(np.abs(got - plain.sum(0)).max()),
        "error_per_tolerance": float(np.abs(got - plain.sum(0)).max() / spec.tolerance(MEMBERS)),
    }


def measure_inference(hidden: Sequence[int], tries: int) -> Row:
    """A network for digits with these hidden layers, asked for one sample and for fifty."""
    pictures, model, network = trained(hidden)
    asked = pictures[-_SAMPLES_AT_ONCE:]
    config = InferenceConfig(samples_max=_SAMPLES_AT_ONCE)
    best = {1: np.inf, _SAMPLES_AT_ONCE: np.inf}
    with (
        serve_private(network, config=config) as server,
        ask_private(server.addresses[0], config=config) as client,
    ):
        for _ in range(tries):
            for samples in best:
                begun_s = time.perf_counter()
                classes = client.classify(asked[:samples])
                best[samples] = min(best[samples], time.perf_counter() - begun_s)
    with torch.no_grad():
        plain = model(asked).argmax(1)
    one = sum(traffic_bytes(network.shape, 1))
    fifty = sum(traffic_bytes(network.shape, _SAMPLES_AT_ONCE))
    return {
        "case": "inference",
        "layers": "-".join(map(str, network.shape.sizes)),
        "samples": _SAMPLES_AT_ONCE,
        "same_as_plain": float((classes == plain).double().mean()),
        "bytes_of_one": one,
        "bytes_per_sample_of_fifty": fifty / _SAMPLES_AT_ONCE,
        "seconds_of_one": float(best[1]),
        "seconds_per_sample_of_fifty": float(best[_SAMPLES_AT_ONCE]) / _SAMPLES_AT_ONCE,
    }


def trained(hidden: Sequence[int]) -> tuple[torch.Tensor, nn.Sequential, FixedNetwork]:
    """Pictures of digits, a network that knows them, and the same in whole numbers."""
    data, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(data / 16, dtype=torch.float32)
    classes = torch.tensor(labels)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        sizes = (pictures.shape[1], *hidden, 10)
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(100):
            optimizer.zero_grad()
            logits = model(pictures[:_TRAINED_ON])
            nn.functional.cross_entropy(logits, classes[:_TRAINED_ON]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return pictures, model, fix_network(model)


def sum_budgets(rows: Sequence[Row]) -> list[Budget]:
    """Of the largest vector of each scheme."""
    budgets = []
    for scheme in (CKKS, PAILLIER):
        row = [one for one in rows if one["scheme"] == scheme][-1]
        budgets.append(
            Budget(f"{scheme}: error / tolerance", row["error_per_tolerance"], 1.0, "times", "<=")
        )
        seconds = row["encrypt_seconds"] / row["elements"]
        if scheme == CKKS:
            budgets += [
                Budget(
                    "ckks: sent by a member",
                    row["bytes_per_element"],
                    CKKS_BYTES_PER_ELEMENT_MAX,
                    "bytes/element",
                    "<=",
                ),
                Budget(
                    "ckks: to encrypt",
                    seconds * 1e6,
                    CKKS_SECONDS_PER_MILLION_MAX,
                    "s/million elements",
                    "<=",
                ),
            ]
        else:
            budgets.append(
                Budget(
                    "paillier: to encrypt",
                    seconds,
                    PAILLIER_SECONDS_PER_ELEMENT_MAX,
                    "s/element",
                    "<=",
                )
            )
    return budgets


def inference_budgets(rows: Sequence[Row]) -> list[Budget]:
    """Of the network with a hidden layer, which costs more."""
    row = rows[-1]
    same = min(one["same_as_plain"] for one in rows)
    return [
        Budget("inference: the same class as the plain network", same, 1.0, "of samples", ">="),
        Budget("inference of one digit", row["bytes_of_one"], INFERENCE_BYTES_MAX, "bytes", "<="),
        Budget("inference of one digit", row["seconds_of_one"], INFERENCE_SECONDS_MAX, "s", "<="),
    ]
