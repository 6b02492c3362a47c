"""The one list of all fuzz targets; each engine takes them from here."""

from __future__ import annotations

from importlib import import_module

from tests.fuzz.target import Target

# A target's name begins with one of these: so an engine that runs one target imports one file.
GROUPS = (
    "host",
    "access",
    "relay",
    "reach",
    "portmap",
    "p2p",
    "discovery",
    "averaging",
    "quantizers",
    "training",
)


def targets_of(group: str) -> tuple[Target, ...]:
    """The targets of one group."""
    found: tuple[Target, ...] = import_module(f"tests.fuzz.targets_{group}").TARGETS
    assert all(target.name.startswith(f"{group}.") for target in found)
    return found


def all_targets() -> tuple[Target, ...]:
    """Every target there is."""
    return tuple(target for group in GROUPS for target in targets_of(group))


def target_named(name: str) -> Target:
    """One target; raises ValueError if there is none of that name."""
    group = name.partition(".")[0]
    if group in GROUPS:
        for target in targets_of(group):
            if target.name == name:
                return target
    raise ValueError(f"no fuzz target is called {name!r}; --list names them all")
