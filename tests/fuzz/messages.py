"""Targets for whole families of messages: any bytes are refused or decode to what they encode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

from p2p import Message, MessageInvalid, Method, decode_untrusted, encode
from tests.fuzz.target import Target

_SIZE_BYTES_MAX = 65_536
Seeds = Iterable[tuple[Message, bytes]]


def modules_of(package: ModuleType) -> list[ModuleType]:
    """A package and all that lies in it."""
    names = [
        found.name
        for found in walk_packages(package.__path__, f"{package.__name__}.")
        # They hold no messages, and load what they plug into, which may be missing.
        if not found.name.startswith("training.plugins.")
    ]
    return [package, *map(import_module, sorted(names))]


def kinds_of(modules: Iterable[ModuleType]) -> dict[str, Any]:
    """Every message, and every union of messages that a method takes, by its name."""
    kinds: dict[str, Any] = {}
    for module in modules:
        for name, thing in vars(module).items():
            if isinstance(thing, Method):
                kinds[f"{module.__name__}.{name} request"] = thing.request_type
                kinds[f"{module.__name__}.{name} response"] = thing.response_type
            elif (
                isinstance(thing, type)
                and issubclass(thing, Message)
                and thing is not Message
                and thing.__module__ == module.__name__
            ):
                kinds[f"{module.__name__}.{name}"] = thing
    return kinds


def message_target(name: str, kinds: Mapping[str, Any], seeds: Seeds) -> Target:
    """The first byte picks the kind of message, the others are its bytes."""
    ordered = [kinds[key] for key in sorted(kinds)]
    places = {id(kind): place for place, kind in enumerate(ordered)}
    # One byte picks the kind.
    assert len(ordered) <= 256

    def run(data: bytes) -> None:
        kind = ordered[data[0] % len(ordered)] if data else ordered[0]
        try:
            message = decode_untrusted(data[1:], kind, size_bytes_max=_SIZE_BYTES_MAX)
        except MessageInvalid:
            return
        encoded = encode(message)
        again = decode_untrusted(encoded, kind, size_bytes_max=_SIZE_BYTES_MAX)
        # Bytes are compared, since an impossible number (NaN) is equal to none.
        assert encode(again) == encoded

    known = [(places[id(type(message))], raw) for message, raw in seeds]
    return Target(
        name=name,
        run=run,
        seeds=[bytes([place]) + raw for place, raw in known],
        covers=("p2p.wire.decode_untrusted",),
    )
