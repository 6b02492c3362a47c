"""Set the stage for the demo and play its story: processes on one side, the screen on the other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import trio
from rich.console import Console

from tools.demo.processes import Child, Children, events_path, open_children, start_node
from tools.demo.result import make_result
from tools.demo.story import KillTrainer, LetJoin, Order, StartTrainer, Story
from tools.demo.view import DemoView, print_result
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.log_folder import open_log_folder
from tools.output import console, print_json
from tools.stopping import run_until_stopped

RECIPE = "digits"
RUN = "demo"
STEPS = 300
POLL_S = 0.05
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
# Longer than any round may take with its retries; trainers on a busy machine start slowly too.
SILENCE_S_MAX = 90.0


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What `manyhands demo` was asked for."""

    peers: int = 3
    """Trainers at the beginning; one more joins late."""
    steps: int | None = None
    """Global steps; None takes the demo's own number."""
    global_batch: int | None = None
    """Samples in one step; None takes the recipe's."""
    kill_one: bool = True
    """Kill one trainer with SIGKILL on the way."""
    keep_logs: Path | None = None
    """Where logs and events are kept; None keeps them only if the demo fails."""
    as_json: bool = False
    """Print one JSON object on stdout, all else on stderr."""


def run_demo(options: DemoOptions) -> int:
    """Play the demo; returns 0 if all peers ended with the same, good enough parameters.

    Raises:
        CommandError: options that do not go together, or a folder that cannot be used.
    """
    if options.kill_one and options.peers < 2:
        raise CommandError(
            "With one trainer there is none to spare",
            next_step="Give --peers 2 or more, or --no-kill-one.",
            exit_code=MISUSED,
        )
    screen = console(as_json=options.as_json)
    story = Story(peers=options.peers, steps=options.steps or STEPS, kill_one=options.kill_one)
    with open_log_folder(options.keep_logs, "manyhands-demo-") as logs:
        began_s = time.monotonic()
        finished = trio.run(run_until_stopped, _play, options, story, logs.path, screen)
        result = make_result(story, seconds=time.monotonic() - began_s)
        if not finished:
            screen.print("Stopped: all its processes have ended. Begin again: manyhands demo")
            return ILL
        logs.keep |= result.problem is not None
        print_result(screen, story, result)
        if logs.keep:
            screen.print(f"See the logs and events in {logs.path}", markup=False)
    if options.as_json:
        print_json(result.to_json())
    return WELL if result.problem is None else ILL


async def _play(options: DemoOptions, story: Story, folder: Path, screen: Console) -> None:
    """Play until the story is over; its processes have ended then."""
    with DemoView(screen, story) as view:
        async with open_children(folder) as children:
            await _follow(options, story, children, view)


async def _follow(options: DemoOptions, story: Story, children: Children, view: DemoView) -> None:
    """Start what the story orders, and tell it what the trainers write."""
    address = (await start_node(children, "node", ["--listen", LOOPBACK]))[0]
    orders = story.on_node_ready()
    heard_s = trio.current_time()
    while True:
        for order in orders:
            await _carry_out(order, options, story, children, address)
        view.update()
        if story.is_over:
            return
        await trio.sleep(POLL_S)
        orders = []
        for child in list(children.by_name.values()):
            if child.name in story.trainers:
                news = _news(story, child)
                heard_s = trio.current_time() if news is not None else heard_s
                orders += news or []
            elif child.process.poll() is not None:
                story.fail(f"the bootstrap node ended: {child.last_words()}")
        if trio.current_time() - heard_s > SILENCE_S_MAX:
            story.fail(f"nothing happened for {SILENCE_S_MAX:.0f} s")


def _news(story: Story, child: Child) -> list[Order] | None:
    """Tell the story what a trainer wrote, and whether it ended; None if there is nothing new."""
    ended_with = child.process.poll()
    events = child.new_events()
    orders = [order for event in events for order in story.on_event(child.name, event)]
    if ended_with is None or child.ended:
        return orders if events else None
    child.ended = True
    orders += story.on_exit(child.name, ended_with)
    if story.problem is not None and child.name in story.problem:
        story.notes.append(f"{child.name} said: {child.last_words()}")
    return orders


async def _carry_out(
    order: Order, options: DemoOptions, story: Story, children: Children, address: str
) -> None:
    match order:
        case KillTrainer(name):
            children.by_name[name].kill()
        case LetJoin(name):
            await children.by_name[name].tell()
        case StartTrainer(name):
            arguments = ["train", RECIPE, "--run", RUN, "--initial-peers", address]
            arguments += ["--listen", LOOPBACK, "--steps", str(story.steps), "--json"]
            arguments += ["--events", str(events_path(children.folder, name))]
            if story.trainers[name].late:
                arguments += ["--join-when-told"]
            else:
                arguments += ["--wait-for-peers", str(story.peers)]
            if options.global_batch is not None:
                arguments += ["--global-batch", str(options.global_batch)]
            await children.start(name, arguments)
