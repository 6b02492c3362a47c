"""Back-off: addresses that failed lately are left out of a race, while others can be tried (core).

Each failure in a row doubles the pause. When all addresses of a peer are paused, all are tried:
whoever asks gets a try, and a peer that came back is found. All is forgiven when our own network
changes, and one address when it works, or when somebody names it.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from p2p.address import Address
from p2p.errors import Attempt

FIRST_PAUSE_S = 1.0
PAUSE_S_MAX = 300.0
_JITTER = 0.25
_ADDRESSES_MAX = 4_096


@dataclass(frozen=True)
class _Failure:
    """How an address failed last."""

    cause: str
    at_s: float
    in_a_row: int
    until_s: float


class BackOff:
    """What is remembered of addresses that failed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures: OrderedDict[Address, _Failure] = OrderedDict()

    def on_failed(self, address: Address, cause: str, now_s: float) -> None:
        """A dial of this address did not lead to its peer."""
        last = self._failures.pop(address, None)
        in_a_row = last.in_a_row + 1 if last else 1
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(in_a_row - 1, 20), PAUSE_S_MAX)
        # Apart, so that peers that lost the same one at once do not come back to it at once.
        pause_s *= 1 + self._rng.uniform(-_JITTER, _JITTER)
        self._failures[address] = _Failure(cause, now_s, in_a_row, now_s + pause_s)
        if len(self._failures) > _ADDRESSES_MAX:
            self._failures.popitem(last=False)

    def forgive(self, addresses: Iterable[Address]) -> None:
        """These work, or somebody asks for them by name."""
        for address in addresses:
            self._failures.pop(address, None)

    def forgive_all(self) -> None:
        """Our network has changed: what failed may work now."""
        self._failures.clear()

    def split(
        self, addresses: tuple[Address, ...], now_s: float
    ) -> tuple[tuple[Address, ...], tuple[Attempt, ...]]:
        """The addresses to try now, in order, and why the others are not tried."""
        due = tuple(one for one in addresses if not self._is_paused(one, now_s))
        if not due:
            return addresses, ()
        paused = []
        for address in addresses:
            if address not in due:
                failure = self._failures[address]
                ago_s = now_s - failure.at_s
                cause = f"{failure.cause}, {ago_s:.0f} s ago; not tried again yet"
                paused.append(Attempt(str(address), cause))
        return due, tuple(paused)

    def _is_paused(self, address: Address, now_s: float) -> bool:
        failure = self._failures.get(address)
        return failure is not None and now_s < failure.until_s
