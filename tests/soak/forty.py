"""Forty trainers on one machine that come, are killed and are replaced: `make forty`.

Real peers with a node and an identity each, several to a process, train a small network over
loopback. A third is killed with SIGKILL and newcomers arrive. At the end every survivor must hold
the same parameters to the bit; else the exit code is 1, and what differs is told. Source: the runs
with volunteers of Diskin et al., "Distributed Deep Learning in Open Collaborations", 2021, section
4.3, where dozens of peers came and went.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import psutil
import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tests.soak.forty_figures import figures, in_words, plot
from tests.soak.forty_story import End, Kill, Order, Start, Status, Story
from tools.bench.report import Report
from tools.demo.processes import Child, Children, events_path, open_children, start_node
from tools.failures import ILL, WELL
from tools.log_folder import LogFolder, open_log_folder
from tools.output import console, print_json
from tools.stopping import run_until_stopped

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
POLL_S = 0.25
MEMORY_EVERY_S = 5.0
MEMORY_BYTES_MAX = 14 * 10**9
SILENCE_S_MAX = 200.0
"""Longer than a round with its retries; then the run has failed."""
STEP_SAMPLES_PER_PEER = 32
NOTES_SHOWN = 8
LINE_EVERY_S = 15.0


class Memory:
    """What all processes use together; pages that they share are counted once (PSS)."""

    def __init__(self) -> None:
        self.bytes_max = 0
        self.bytes_now = 0

    def sample(self, pids: list[int]) -> None:
        """Look once; a process that is gone counts nothing."""
        total = 0
        for pid in pids:
            try:
                used = psutil.Process(pid).memory_full_info()
            except psutil.Error:
                continue
            total += int(getattr(used, "pss", used.uss))
        self.bytes_now, self.bytes_max = total, max(self.bytes_max, total)


class View:
    """The run on the screen: a live table on a terminal, a line now and then elsewhere."""

    def __init__(self, screen: Console, story: Story, memory: Memory) -> None:
        self._screen, self._story, self._memory = screen, story, memory
        self._live = Live(console=screen, auto_refresh=False, transient=True)
        self._notes_told = 0
        self._line_due_s = 0.0

    def __enter__(self) -> View:
        if self._screen.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, now_s: float) -> None:
        """Show the run as it stands."""
        if self._screen.is_terminal:
            self._live.update(self._table(now_s), refresh=True)
            return
        for note in self._story.notes[self._notes_told :]:
            self._screen.print(note, markup=False)
        self._notes_told = len(self._story.notes)
        if now_s >= self._line_due_s:
            self._line_due_s = now_s + LINE_EVERY_S
            self._screen.print(self._line(now_s), markup=False)

    def _line(self, now_s: float) -> str:
        story = self._story
        training = sum(one.status is Status.TRAINING for one in story.sessions.values())
        failed = sum(not one.succeeded for one in story.rounds.values())
        return (
            f"{now_s:.0f} s: {training} peers train, step {story.step}, "
            f"{failed} rounds failed, {len(story.catch_ups_s)} catch-ups, "
            f"{self._memory.bytes_now / 1e9:.2f} GB"
        )

    def _table(self, now_s: float) -> Table:
        table = Table(title=self._line(now_s), caption="\n".join(self._story.notes[-NOTES_SHOWN:]))
        for heading in ("process", "peers", "state", "steps", "samples"):
            table.add_column(heading)
        processes = dict.fromkeys(one.process for one in self._story.sessions.values())
        for process in processes:
            peers = [one for one in self._story.sessions.values() if one.process == process]
            steps = sorted({one.step for one in peers})
            table.add_row(
                process,
                str(len(peers)),
                ", ".join(dict.fromkeys(one.status.value for one in peers)),
                f"{steps[0]} to {steps[-1]}",
                str(sum(one.samples for one in peers)),
            )
        return table


class Run:
    """Carries out what the story orders, and tells it what peers write."""

    def __init__(self, options: argparse.Namespace, story: Story, memory: Memory) -> None:
        self._options, self._story, self._memory = options, story, memory
        self._began_s = time.time()
        self._heard_s = 0.0

    @property
    def now_s(self) -> float:
        """Since the first process was started."""
        return time.time() - self._began_s

    async def play(self, children: Children, view: View) -> None:
        """Until the story is over."""
        address = (await start_node(children, "node", ["--listen", LOOPBACK]))[0]
        self._began_s = time.time()
        memory_due_s = 0.0
        while not self._story.is_over:
            for order in self._story.next_orders(self.now_s):
                await self._carry_out(order, children, address)
            view.update(self.now_s)
            await trio.sleep(POLL_S)
            for child in list(children.by_name.values()):
                self._hear(child)
            if self.now_s >= memory_due_s:
                memory_due_s = self.now_s + MEMORY_EVERY_S
                running = [one for one in children.by_name.values() if one.process.poll() is None]
                pids = [one.process.pid for one in running]
                await trio.to_thread.run_sync(self._memory.sample, pids)
            self._check()
        view.update(self.now_s)

    def _check(self) -> None:
        if self._memory.bytes_now > MEMORY_BYTES_MAX:
            self._story.fail(f"over {MEMORY_BYTES_MAX / 1e9:.0f} GB of memory are in use")
        if self.now_s - self._heard_s > SILENCE_S_MAX:
            self._story.fail(f"nothing happened for {SILENCE_S_MAX:.0f} s")
        if self.now_s > self._options.minutes * 60 + SILENCE_S_MAX:
            self._story.fail("the time is over, and peers still train")

    def _hear(self, child: Child) -> None:
        ended_with = child.process.poll()
        for event in child.new_events():
            self._heard_s = event["time_s"] - self._began_s
            self._story.on_event(event, self._heard_s)
        if ended_with is None or child.ended:
            return
        child.ended = True
        if child.name == "node":
            self._story.fail(f"the bootstrap node ended: {child.last_words()}")
        else:
            self._story.on_exit(child.name, ended_with, child.last_words())

    async def _carry_out(self, order: Order, children: Children, address: str) -> None:
        match order:
            case Kill(process):
                children.by_name[process].kill()
            case End(step):
                for child in children.by_name.values():
                    if child.name != "node" and child.process.poll() is None:
                        await child.tell(str(step))
            case Start():
                options = self._options
                events = events_path(children.folder, order.process)
                command = ["tests.soak.forty_peer", order.process, address, str(events)]
                command += ["--peers", str(order.peers), "--together", str(order.together)]
                command += ["--micro-batch", str(options.micro_batch)]
                command += ["--global-batch", str(options.global_batch)]
                command += ["--pause-s", str(options.pause_s), "--seed", str(options.seed)]
                command += ["--silence-s", str(options.silence_s)]
                await children.start_module(order.process, command)


async def _play(run: Run, view: View, logs: LogFolder) -> None:
    with view:
        async with open_children(logs.path) as children:
            await run.play(children, view)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="Train with peers that come, die and are replaced")
    parser.add_argument("--peers", type=int, default=40)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=12.0, help="from start to end, about")
    parser.add_argument("--micro-batch", type=int, default=STEP_SAMPLES_PER_PEER)
    parser.add_argument("--global-batch", type=int, help="32 samples for each peer, if not given")
    parser.add_argument("--pause-s", type=float, default=1.5, help="a micro-batch takes that, mean")
    parser.add_argument(
        "--silence-s", type=float, default=20.0, help="who says nothing for so long is lost"
    )
    parser.add_argument("--seed", type=int, default=1, help="chooses victims and speeds")
    parser.add_argument("--save", type=Path, help="write all figures there, as JSON")
    parser.add_argument("--plot", type=Path, help="draw throughput over time there, as SVG")
    parser.add_argument("--keep-logs", type=Path, help="a new folder for logs and events")
    parser.add_argument("--json", action="store_true", help="print one object, the rest on stderr")
    options = parser.parse_args()
    if not 2 <= options.processes <= options.peers:
        parser.error("--processes must be at least 2 and at most --peers")
    if min(options.minutes, options.pause_s, options.silence_s) <= 0:
        parser.error("--minutes, --pause-s and --silence-s must be positive")
    if options.global_batch is None:
        options.global_batch = STEP_SAMPLES_PER_PEER * options.peers
    return options


def main() -> int:
    """Run it; 1 when survivors differ or the run did not finish."""
    options = arguments()
    screen = console(as_json=options.json)
    report = Report("forty", ())
    rng = random.Random(options.seed)
    story = Story(
        peers=options.peers, processes=options.processes, seconds=60 * options.minutes, rng=rng
    )
    memory = Memory()
    with open_log_folder(options.keep_logs, "manyhands-forty-") as logs:
        run = Run(options, story, memory)
        if not trio.run(run_until_stopped, _play, run, View(screen, story, memory), logs):
            screen.print("Stopped: all its processes have ended.")
            return ILL
        measured = figures(story, seconds=run.now_s, memory_bytes_max=memory.bytes_max)
        asked = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
        report.rows.append({"options": asked, **measured})
        problem = measured["problem"]
        logs.keep |= problem is not None
        for line in in_words(measured):
            screen.print(line, markup=False)
        if logs.keep:
            screen.print(f"See the logs and events in {logs.path}", markup=False)
    if options.save is not None:
        report.save(options.save)
    if options.plot is not None:
        options.plot.write_text(plot(measured), "utf-8")
    if options.json:
        print_json(report.as_object())
    if problem is not None:
        screen.print(f"ill: {problem}", markup=False)
        return ILL
    screen.print(f"well: all {measured['survivors']} survivors hold the same parameters")
    return WELL


if __name__ == "__main__":
    sys.exit(main())
