"""Each fuzz target on its seeds, on what once broke it, and on varied seeds."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

from tests.fuzz.found import found_inputs, keep, target_name_of
from tests.fuzz.run import saving
from tests.fuzz.target import Target
from tests.fuzz.targets import all_targets, target_named

ROOT = Path(__file__).parent.parent.parent
TARGETS = all_targets()
EXAMPLES = 600
"""Of each target, by a plain random generator: hypothesis takes ten times longer to draw them."""
# These take what another function here has decoded, and need a running session around them;
# the tests of their own modules give them hostile messages.
TESTED_ELSEWHERE = (
    "p2p.rpc.service._dispatch_untrusted",
    "averaging.matchmaking.outgoing.read_group_untrusted",
    "averaging.matchmaking.service.on_group_shown_untrusted",
    "averaging.allreduce.hearing.",
    "averaging.allreduce.member.",
    "averaging.allreduce.recovery.",
    "averaging.allreduce.session.",
    "averaging.secure.links.",
    "averaging.secure.session.",
    "training.progress.tracker._find_untrusted",
)


def varied(rng: random.Random, target: Target) -> bytes:
    """Noise, or a seed with some bytes changed, cut out, doubled or put in."""
    if rng.randrange(4) == 0:
        return rng.randbytes(rng.randint(0, min(200, target.size_bytes_max)))
    data = bytearray(rng.choice(target.seeds))
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, len(data))
        match rng.randrange(4):
            case 0 if place < len(data):
                data[place] = byte(rng)
            case 1:
                del data[place : place + rng.randint(1, 16)]
            case 2:
                data[place:place] = bytes(byte(rng) for _ in range(rng.randint(1, 8)))
            case _:
                data += data[place : place + 200]
    return bytes(data)


def byte(rng: random.Random) -> int:
    """Any, but every other time one at which lengths, signs and ends are judged."""
    return rng.choice((0, 1, 127, 128, 255)) if rng.randrange(2) else rng.randrange(256)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_pass(target: Target) -> None:
    assert target.seeds
    for seed in target.seeds:
        target.run(seed)
        # What is cut off anywhere is an ordinary thing on a network.
        for end in range(0, len(seed), max(1, len(seed) // 40)):
            target.run(seed[:end])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_varied_inputs_pass(target: Target) -> None:
    rng = random.Random(target.name)
    for _ in range(EXAMPLES):
        data = varied(rng, target)
        try:
            target.run(data)
        except BaseException as exc:
            exc.add_note(f"from {data!r}")
            raise


def test_what_was_found_once_is_mended() -> None:
    for path in found_inputs():
        target_named(target_name_of(path)).run(path.read_bytes())


def test_a_found_input_tells_its_target(tmp_path: Path) -> None:
    path = keep("host.yamux-raw", b"\x00", tmp_path)
    assert target_named(target_name_of(path)).name == "host.yamux-raw"
    assert path.read_bytes() == b"\x00"


def test_an_input_that_raises_is_saved(tmp_path: Path) -> None:
    def break_on_seven(data: bytes) -> None:
        assert 7 not in data

    run = saving(break_on_seven, tmp_path / "crash")
    run(b"\x01")
    assert not (tmp_path / "crash").exists()
    with pytest.raises(AssertionError):
        run(b"\x01\x07")
    assert (tmp_path / "crash").read_bytes() == b"\x01\x07"


def untrusted_functions() -> list[str]:
    """Every function of ours that says it takes bytes from the network."""
    found = []
    for package in ("p2p", "averaging", "training", "tools"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found += [
                f"{module}.{node.name}"
                for node in ast.walk(ast.parse(path.read_text("utf-8")))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name.endswith("_untrusted")
            ]
    return found


def test_every_decoder_has_a_target() -> None:
    functions = untrusted_functions()
    covered = {name for target in TARGETS for name in target.covers}
    assert [
        name for name in functions if name not in covered and not name.startswith(TESTED_ELSEWHERE)
    ] == []
    assert sorted(covered - set(functions)) == []
