"""Build the internet of a scene, run `manyhands` on its hosts, and show what happens there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from p2p.testing.netlab import Netlab, NetlabUnavailable, build, open_netlab
from tools.demo.processes import Child, Children, events_path, open_children, start_node
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.log_folder import open_log_folder
from tools.output import console, print_json
from tools.simulate.scene import NEXT_STEP, Fault, Scene, read_scene
from tools.simulate.story import Story, describe_paths
from tools.stopping import run_until_stopped

RUN = "simulation"
LISTEN = "/ip4/0.0.0.0/tcp/31337"
POLL_S = 0.1
SILENCE_S_MAX = 180.0
NOTES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """What `manyhands simulate` was asked for."""

    scene_path: Path
    """The file that describes the internet, and who runs what in it."""
    seed: int = 0
    """Of the links' chance."""
    keep_logs: Path | None = None
    """Where logs and events are kept; None keeps them only if the simulation fails."""
    as_json: bool = False
    """Print one JSON object on stdout, all else on stderr."""


def run_simulation(options: SimulateOptions) -> int:
    """Play a scene; returns 0 if all that were not killed finished with the same parameters.

    Raises:
        CommandError: the file is wrong, or the machine has no network namespaces for us.
    """
    scene = read_scene(options.scene_path)
    screen = console(as_json=options.as_json)
    story = Story(scene)
    try:
        with (
            open_log_folder(options.keep_logs, "manyhands-simulate-") as logs,
            open_netlab(seed=options.seed) as lab,
        ):
            _build(lab, scene, options.scene_path)
            began_s = time.monotonic()
            finished = trio.run(run_until_stopped, _play, scene, story, lab, logs.path, screen)
            result = story.result(seconds=time.monotonic() - began_s)
            logs.keep |= finished and "problem" in result
            if logs.keep:
                screen.print(f"See the logs and events in {logs.path}", markup=False)
    except NetlabUnavailable as exc:
        raise CommandError(
            f"There can be no network namespaces: {exc}",
            next_step="It needs Linux and root; on Debian, install what is missing with apt-get.",
        ) from exc
    if not finished:
        screen.print("Stopped: all its processes and namespaces are gone.")
        return ILL
    _print_result(screen, story, result.get("problem"))
    if options.as_json:
        print_json(result)
    return ILL if "problem" in result else WELL


def _build(lab: Netlab, scene: Scene, path: Path) -> None:
    try:
        build(lab, scene.internet)
    except ValueError as exc:
        raise CommandError(f"{path}: {exc}", next_step=NEXT_STEP, exit_code=MISUSED) from exc


async def _play(scene: Scene, story: Story, lab: Netlab, folder: Path, screen: Console) -> None:
    """Run until the story is over; its processes have ended then."""
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        async with open_children(folder) as children:
            await _start_all(scene, lab, children)
            await _follow(story, lab, children, live)


async def _start_all(scene: Scene, lab: Netlab, children: Children) -> None:
    """Start the first node, then everybody else with its address."""
    boot = scene.node
    options = _options(scene, boot)
    addresses = await start_node(children, boot, options, inside=_inside(lab, boot))
    host = lab.hosts[boot].address
    entrance = next((one for one in addresses if f"/{host}/" in one), addresses[0])
    for name, role in scene.roles.items():
        if role == "train":
            arguments = ["train", scene.recipe, "--run", RUN, "--steps", str(scene.steps), "--json"]
            arguments += ["--wait-for-peers", str(len(scene.trainers))]
            arguments += ["--events", str(events_path(children.folder, name))]
            if scene.global_batch is not None:
                arguments += ["--global-batch", str(scene.global_batch)]
        elif role == "node" and name != boot:
            arguments = ["node", "--identity", str(children.folder / f"{name}.key")]
        else:
            continue
        arguments += ["--initial-peers", entrance, *_options(scene, name)]
        await children.start(name, arguments, inside=_inside(lab, name))


def _options(scene: Scene, name: str) -> list[str]:
    """What the scene gives a host, and where it listens unless the scene says so."""
    given = list(scene.options[name])
    return given if "--listen" in given else ["--listen", LISTEN, *given]


def _inside(lab: Netlab, name: str) -> list[str]:
    return ["ip", "netns", "exec", lab.hosts[name].namespace]


async def _follow(story: Story, lab: Netlab, children: Children, live: Live) -> None:
    """Tell the story what the trainers write, and do what it wants done."""
    heard_s = trio.current_time()
    told = 0
    while not story.is_over:
        await trio.sleep(POLL_S)
        for child in children.by_name.values():
            if _hear(story, child):
                heard_s = trio.current_time()
        while (fault := story.next_fault()) is not None:
            _do(fault, lab, children)
        if trio.current_time() - heard_s > SILENCE_S_MAX:
            story.fail(f"nothing happened for {SILENCE_S_MAX:.0f} s")
        if live.console.is_terminal:
            table = _table(story)
            table.caption = "\n".join(story.notes[-NOTES_SHOWN:])
            live.update(table, refresh=True)
        else:
            for note in story.notes[told:]:
                live.console.print(note, markup=False)
            told = len(story.notes)


def _hear(story: Story, child: Child) -> bool:
    """Tell the story what a process wrote and whether it ended; returns whether there was news."""
    ended_with = child.process.poll()
    is_trainer = child.name in story.trainers
    events = child.new_events() if is_trainer else []
    for event in events:
        story.on_event(child.name, event)
    if ended_with is None or child.ended:
        return bool(events)
    child.ended = True
    if is_trainer:
        story.on_exit(child.name, ended_with, child.last_words())
    elif not child.was_killed:
        story.fail(f"the node {child.name} ended: {child.last_words()}")
    return True


def _do(fault: Fault, lab: Netlab, children: Children) -> None:
    place = lab.hosts.get(fault.to) or lab.routers[fault.to]
    match fault.deed:
        case "cut":
            place.uplink.cut()
        case "heal":
            place.uplink.heal()
        case "change-address":
            place.change_address()
        case "forget-mappings":
            lab.routers[fault.to].forget_mappings()
        case "kill":
            if fault.to in children.by_name:
                children.by_name[fault.to].kill()


def _table(story: Story) -> Table:
    table = Table(title=f"manyhands simulate: step {story.step} of {story.steps}")
    for heading in ("host", "behind", "state", "paths"):
        table.add_column(heading)
    for heading in ("step", "samples", "per s", "failed", "right"):
        table.add_column(heading, justify="right")
    for one in story.trainers.values():
        numbers = (one.step, one.samples, round(one.samples_per_s), one.rounds_failed)
        accuracy = "" if one.accuracy is None else f"{one.accuracy:.1%}"
        paths = describe_paths(one.paths)
        table.add_row(one.name, one.where, one.state, paths, *map(str, numbers), accuracy)
    return table


def _print_result(screen: Console, story: Story, problem: str | None) -> None:
    screen.print(_table(story))
    if problem is None:
        screen.print(
            f"[bold green]well[/] All who were not killed finished step {story.step} with the same "
            "parameters. Change the file, and see what the next network does to them."
        )
    else:
        screen.print("[bold red]ill[/] ", end="")
        screen.print(f"{problem}.", markup=False)
        screen.print("Look into the log of the host that it names.")
