"""Split learning: a client computes the first layers, a server the rest, and only activations and
gradients go between them.

    parts = split.cut(model, at=3, example=x)                                   # both sides
    with split.serve("run", parts, optimizer=server_optimizer, loss=loss) as server:    # one
        server.run()
    with split.connect("run", parts, optimizer=client_optimizer) as server:     # the other
        loss = server.step(x, y)

Source: Vepakomma et al., "Split learning for health: Distributed deep learning without sharing raw
patient data", 2018; Gupta and Raskar, "Distributed learning of deep neural network over multiple
agents", 2018.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.split.config import SplitClientConfig, SplitServerConfig
    from training.split.connecting import SplitClient, connect
    from training.split.parts import Parts, cut, pair
    from training.split.service import Progress
    from training.split.serving import SplitServer, serve
    from training.split.traffic import Traffic

_HOMES = {
    "training.split.config": ("SplitClientConfig", "SplitServerConfig"),
    "training.split.connecting": ("SplitClient", "connect"),
    "training.split.parts": ("Parts", "cut", "pair"),
    "training.split.service": ("Progress",),
    "training.split.serving": ("SplitServer", "serve"),
    "training.split.traffic": ("Traffic",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Parts",
    "Progress",
    "SplitClient",
    "SplitClientConfig",
    "SplitServer",
    "SplitServerConfig",
    "Traffic",
    "connect",
    "cut",
    "pair",
    "serve",
]


def __getattr__(name: str) -> Any:
    """Load a name from the module that it lives in, and keep it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
