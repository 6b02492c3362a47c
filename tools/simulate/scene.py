"""What `manyhands simulate` reads: an internet, what runs where, and what goes wrong when."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from p2p.testing.netlab import InternetPlan, read_plan, way_out
from tools.failures import MISUSED, CommandError

T = TypeVar("T")

SCENE_BYTES_MAX = 1 << 20
NEXT_STEP = "Correct it; `manyhands simulate --help` shows a whole file."

Role = Literal["node", "train", "nothing"]
Deed = Literal["cut", "heal", "kill", "forget-mappings", "change-address"]
ROUTER_DEEDS = ("cut", "heal", "forget-mappings", "change-address")
HOST_DEEDS = ("cut", "heal", "kill", "change-address")


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that happens to a host or router when the swarm has come to a step."""

    at_step: Annotated[int, Meta(ge=0)]
    deed: Deed
    to: str


class _Rest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of the file but its internet."""

    recipe: str = "digits"
    steps: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    global_batch: Annotated[int, Meta(ge=1)] | None = None
    faults: tuple[Fault, ...] = ()


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a host that are not about its link."""

    runs: Role = "nothing"
    options: tuple[str, ...] = ()


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was read and checked."""

    internet: InternetPlan
    recipe: str
    steps: int
    global_batch: int | None
    faults: tuple[Fault, ...]
    roles: dict[str, Role]
    """What each host runs."""
    options: dict[str, tuple[str, ...]]
    """Further options of each host's command."""

    @property
    def node(self) -> str:
        """The host by which all others enter: the first that runs a node."""
        return next(name for name, role in self.roles.items() if role == "node")

    @property
    def trainers(self) -> tuple[str, ...]:
        """The hosts that train."""
        return tuple(name for name, role in self.roles.items() if role == "train")

    def where(self, name: str) -> str:
        """Where a host stands, for people: "public", or what is before it."""
        routers = self.internet.routers
        way = way_out(self.internet, self.internet.hosts[name])
        return ", ".join(f"{router} ({routers[router].nat})" for router in way) or "public"


def read_scene(path: Path) -> Scene:
    """Read a file.

    Raises:
        CommandError: it cannot be read, or is wrong; the text names the place.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(SCENE_BYTES_MAX + 1)
        if len(raw) > SCENE_BYTES_MAX:
            raise ValueError("is larger than 1 MiB and thus not a scene")
        return parse_scene(tomllib.loads(raw.decode("utf-8")))
    except OSError as exc:
        raise CommandError(
            f"{path} cannot be read: {exc.strerror}", next_step=NEXT_STEP, exit_code=MISUSED
        ) from exc
    except ValueError as exc:  # of ours, of TOML and of its encoding
        raise CommandError(f"{path}: {exc}", next_step=NEXT_STEP, exit_code=MISUSED) from exc


def parse_scene(content: dict[str, Any]) -> Scene:
    """Check a table and make a scene of it.

    Raises:
        ValueError: with the place of what is wrong.
    """
    rest = dict(content)
    hosts, routers = rest.pop("hosts", {}), rest.pop("routers", {})
    if not isinstance(hosts, dict) or not all(isinstance(host, dict) for host in hosts.values()):
        raise ValueError("hosts are tables, such as [hosts.alice]")
    works = {name: _convert(host, _Work, f"hosts.{name}") for name, host in hosts.items()}
    links = {
        name: {key: value for key, value in host.items() if key not in _Work.__struct_fields__}
        for name, host in hosts.items()
    }
    checked = _convert(rest, _Rest, "the file")
    scene = Scene(
        internet=read_plan({"hosts": links, "routers": routers}),
        recipe=checked.recipe,
        steps=checked.steps,
        global_batch=checked.global_batch,
        faults=checked.faults,
        roles={name: work.runs for name, work in works.items()},
        options={name: work.options for name, work in works.items()},
    )
    _check(scene)
    return scene


def _check(scene: Scene) -> None:
    if "node" not in scene.roles.values():
        raise ValueError('no host has runs = "node", by which the others could enter')
    if scene.where(scene.node) != "public":
        raise ValueError(f'"{scene.node}" runs the first node, and must be behind no router')
    if not scene.trainers:
        raise ValueError('no host has runs = "train"')
    for fault in scene.faults:
        if fault.to in scene.internet.hosts:
            deeds = HOST_DEEDS
        elif fault.to in scene.internet.routers:
            deeds = ROUTER_DEEDS
        else:
            raise ValueError(f'a fault is to "{fault.to}", and there is no such host or router')
        runs_nothing = scene.roles.get(fault.to) == "nothing"
        if fault.deed not in deeds or (fault.deed == "kill" and runs_nothing):
            raise ValueError(f'"{fault.deed}" cannot be done to "{fault.to}"')
        if fault.at_step > scene.steps:
            raise ValueError(f"a fault at step {fault.at_step} is after the last one")


def _convert(content: object, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as exc:
        raise ValueError(f"{where}: {exc}") from exc
