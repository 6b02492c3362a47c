"""Handle: what plain synchronous code holds of a node that lives in a portal's thread."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from p2p import Node, PeerId, Portal


class Handle:
    """Leave it with close(), or by leaving its `with` block: that ends the node and its portal."""

    def __init__(self, portal: Portal, node: Node) -> None:
        self._portal = portal
        self._node = node

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal.__exit__(kind, error, traceback)

    def close(self) -> None:
        """Leave at once: afterwards no thread, socket or task of it is left."""
        self._portal.close()

    @property
    def peer_id(self) -> PeerId:
        """Who we are to the others."""
        return self._node.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can reach us; empty in client mode."""
        return self._node.addresses
