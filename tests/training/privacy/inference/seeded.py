"""What tests of private inference share: random bytes from a seed, keys, and what parties send."""

from __future__ import annotations

import hashlib
import random
from typing import TypeVar

from training.privacy.inference.exchange import Exchange, RandomBytes, send

Result = TypeVar("Result")

SESSION = bytes(range(32))


def random_bytes(seed: int) -> RandomBytes:
    """Bytes that are the same on every run."""
    return random.Random(seed).randbytes


def session_key(session: bytes) -> bytes:
    """Of the AES that hashes in a session; see BlockHash."""
    return hashlib.sha256(b"manyhands/private-inference/aes" + session).digest()[:16]


def listened(party: Exchange[Result], heard: list[bytes]) -> Exchange[Result]:
    """The same party, while all that it sends is written down."""
    want = next(party)
    while True:
        if isinstance(want, bytes):
            heard.append(want)
        answer = yield want
        try:
            want = party.send(answer)
        except StopIteration as done:
            result: Result = done.value
            return result


def replay(messages: list[bytes]) -> Exchange[None]:
    """Somebody who sends what was recorded, whatever it hears."""
    for message in messages:
        yield from send(message)
