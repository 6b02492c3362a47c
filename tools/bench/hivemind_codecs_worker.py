"""One process that measures hivemind's codecs, run by a Python that has it and none of ours.

    PYTHON -I tools/bench/hivemind_codecs_worker.py

It reads orders and writes answers, a line of JSON each, as tools.bench.codecs asks. Hivemind is no
dependency of ours, so nothing imports it but by its name.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np

# Its pool of threads for quantiles is as large as this when it is imported: all have one thread.
os.environ["QUANTIZATION_THREADS"] = "1"


class PatientNumpy:
    """NumPy for hivemind 1.1, which takes int() of arrays of one element, as NumPy 2.5 does not."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def frombuffer(buffer: bytes, count: int = -1, **options: Any) -> Any:
        """A single element comes as a number."""
        found = np.frombuffer(buffer, count=count, **options)
        return found[0] if count == 1 else found


def values_of(count: int, sigma: float) -> Any:
    """As in tools.bench.codecs, which cannot be imported here."""
    import torch

    return sigma * torch.randn(count, generator=torch.Generator().manual_seed(0))


def measure(codec_name: str, count: int, repeats: int, sigma: float) -> dict[str, Any]:
    """The fewest seconds, the message's size, and the relative error; values as in ours."""
    import torch

    torch.set_num_threads(1)
    codecs = import_module("hivemind.compression")
    vars(import_module("hivemind.compression.quantization"))["np"] = PatientNumpy()
    codec = getattr(codecs, codec_name)()
    values = values_of(count, sigma)
    info = codecs.CompressionInfo.from_tensor(values)
    encoding, decoding = [], []
    codec.compress(values, info)
    for _ in range(repeats):
        begun_s = time.perf_counter()
        message = codec.compress(values, info)
        encoded_s = time.perf_counter()
        out = codec.extract(message)
        encoding.append(encoded_s - begun_s)
        decoding.append(time.perf_counter() - encoded_s)
    return {
        "encode_s": min(encoding),
        "decode_s": min(decoding),
        "size_bytes": message.ByteSize(),
        "relative_error": float((out - values).norm() / values.norm()),
    }


def main() -> None:
    """Take orders until the parent is gone; an error is an answer, too."""
    orders, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w")
    # What a library prints must not pass for an answer.
    os.dup2(2, 1)
    for line in orders:
        order = json.loads(line)
        try:
            answer = measure(order["codec"], order["elements"], order["repeats"], order["sigma"])
        except Exception as exc:
            print(f"{order['codec']} failed: {exc!r}", file=sys.stderr)
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
