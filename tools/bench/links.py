"""Links of a fixed rate and delay between processes here: each peer's traffic passes its buckets.

    python -m tools.bench.links

A process of its own that needs no rights. For each ordered pair of peers it listens on a port; what
comes in there goes to the second one's real port, no faster than the first may send and the second
may receive, all their connections together. What comes back is limited the other way round.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from tools.bench.orders import Orders, errors_told
from tools.bench.processes import Worker

_PIECE_BYTES = 32_768
_BUFFER_BYTES = 131_072
"""What may wait in a socket on its way through: more would hide the link from its sender."""
_BURST_S = 0.01
"""How much of its rate a link may make up for: about how late a sleeping process wakes."""
_PIECES_ON_THE_WAY_MAX = 64
"""Of one connection, where links have a delay: 2 MB, more than 100 Mbit/s have in 100 ms."""


class Bucket:
    """The rate of one peer's link in one direction (pure).

    Source: the generic cell rate algorithm, ITU-T I.371, annex A.
    """

    def __init__(self, rate_bytes_per_s: float) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._free_at_s = float("-inf")
        self.passed_bytes = 0

    def take(self, size_bytes: int, now_s: float) -> float:
        """Reserve room for a piece behind those before it; returns when it has passed."""
        begins_s = max(self._free_at_s, now_s - _BURST_S)
        self._free_at_s = begins_s + size_bytes / self._rate_bytes_per_s
        self.passed_bytes += size_bytes
        return self._free_at_s


class Links:
    """All links of a few peers.

    Args:
        ports: where each really listens; 0 for who does not yet, until place() tells.
        delay_s: how long each piece takes from one peer to another.
    """

    def __init__(self, ports: list[int], rate_bytes_per_s: float, *, delay_s: float = 0.0) -> None:
        self._ports = ports
        self._delay_s = delay_s
        self.up = [Bucket(rate_bytes_per_s) for _ in ports]
        self.down = [Bucket(rate_bytes_per_s) for _ in ports]

    async def listen(self, nursery: trio.Nursery) -> list[list[int]]:
        """For each peer, the port where it finds each other; its own real one for itself."""
        found: list[list[int]] = []
        for source, own_port in enumerate(self._ports):
            found.append([])
            for target in range(len(self._ports)):
                if source == target:
                    found[-1].append(own_port)
                    continue
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                for listener in listeners:
                    # What is accepted there inherits it.
                    listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
                handler = partial(self._carry, source, target)
                nursery.start_soon(trio.serve_listeners, handler, listeners)
                found[-1].append(listeners[0].socket.getsockname()[1])
        return found

    def place(self, peer: int, port: int) -> None:
        """This one listens now, there."""
        self._ports[peer] = port

    async def _carry(self, source: int, target: int, near: trio.SocketStream) -> None:
        far_socket = trio.socket.socket()
        far_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        far = trio.SocketStream(far_socket)
        async with near, far:
            try:
                await far_socket.connect(("127.0.0.1", self._ports[target]))
                async with trio.open_nursery() as nursery:
                    there = (self.up[source], self.down[target])
                    back = (self.up[target], self.down[source])
                    nursery.start_soon(pump, near, far, there, self._delay_s)
                    nursery.start_soon(pump, far, near, back, self._delay_s)
            except* (OSError, trio.BrokenResourceError):
                # A peer that is gone is no fault of the link; leaving closes the other end.
                pass


async def pump(
    near: trio.abc.ReceiveStream,
    far: trio.abc.HalfCloseableStream,
    buckets: tuple[Bucket, Bucket],
    delay_s: float = 0.0,
) -> None:
    """Carry what comes from one end to the other, as fast as both buckets let it, to its end.

    Args:
        delay_s: how much later than it passed the buckets each piece arrives.
    """
    room = _PIECES_ON_THE_WAY_MAX if delay_s else 0
    leave, arrive = trio.open_memory_channel[tuple[float, bytes]](room)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_deliver, arrive, far)
        async with leave:
            while data := await near.receive_some(_PIECE_BYTES):
                now_s = trio.current_time()
                passed_s = max(bucket.take(len(data), now_s) for bucket in buckets)
                await trio.sleep_until(passed_s)
                await leave.send((max(passed_s, now_s) + delay_s, bytes(data)))


async def _deliver(
    arrive: trio.MemoryReceiveChannel[tuple[float, bytes]], far: trio.abc.HalfCloseableStream
) -> None:
    async for due_s, data in arrive:
        await trio.sleep_until(due_s)
        await far.send_all(data)
    await far.send_eof()


@contextmanager
def open_links(rate_bytes_per_s: float, *, delay_s: float = 0.0) -> Iterator[LinksProcess]:
    """The process of the links, with nobody linked yet; it is gone when the block ends."""
    worker = Worker("links", "tools.bench.links")
    try:
        yield LinksProcess(worker, rate_bytes_per_s, delay_s)
    finally:
        worker.end()


class LinksProcess:
    """The parent's side."""

    def __init__(self, worker: Worker, rate_bytes_per_s: float, delay_s: float) -> None:
        self._worker = worker
        self._rate_bytes_per_s = rate_bytes_per_s
        self._delay_s = delay_s
        self._entrances: list[list[int]] = []

    def route(self, addresses: list[str]) -> list[list[str]]:
        """Link peers at these multiaddresses; for each peer, where it finds each of them."""
        self._entrances = self._listen([_port(address) for address in addresses])
        return [
            [_with_port(address, port) for address, port in zip(addresses, ports, strict=True)]
            for ports in self._entrances
        ]

    def reserve(self, peers: int) -> None:
        """Have links for so many peers, none of which is there yet."""
        self._entrances = self._listen([0] * peers)

    def place(self, peer: int, address: str) -> None:
        """One of the reserved peers has come, and listens at this multiaddress."""
        self._worker.ask(peer=peer, port=_port(address))

    def seen_from(self, source: int, target: int, address: str) -> str:
        """Where one reserved peer finds another, whose own multiaddress is this."""
        return _with_port(address, self._entrances[source][target])

    def _listen(self, ports: list[int]) -> list[list[int]]:
        answer = self._worker.ask(
            ports=ports, rate_bytes_per_s=self._rate_bytes_per_s, delay_s=self._delay_s
        )
        found: list[list[int]] = answer["ports"]
        return found

    def passed_bytes(self) -> tuple[list[int], list[int]]:
        """What each peer has sent and received so far, encrypted and with all headers."""
        answer = self._worker.ask()
        return answer["up"], answer["down"]


def _port(address: str) -> int:
    parts = address.split("/")
    return int(parts[parts.index("tcp") + 1])


def _with_port(address: str, port: int) -> str:
    parts = address.split("/")
    parts[parts.index("tcp") + 1] = str(port)
    return "/".join(parts)


async def _run(orders: Orders) -> None:
    task = await orders.wait()
    if task is None:
        return
    links = Links(task["ports"], task["rate_bytes_per_s"], delay_s=task["delay_s"])
    async with trio.open_nursery() as nursery:
        orders.answer({"ports": await links.listen(nursery)})
        while (order := await orders.wait()) is not None:
            if "peer" in order:
                links.place(order["peer"], order["port"])
            orders.answer(_passed(links))
        nursery.cancel_scope.cancel()


def _passed(links: Links) -> dict[str, Any]:
    return {
        "up": [bucket.passed_bytes for bucket in links.up],
        "down": [bucket.passed_bytes for bucket in links.down],
    }


def main() -> None:
    """Run until the parent is gone; an error is an answer, too."""
    orders = Orders()
    with errors_told(orders):
        trio.run(_run, orders)


if __name__ == "__main__":
    main()
