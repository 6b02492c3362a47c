"""What `manyhands train --role` says, of recipes that are split and of others."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tools.failures import ILL, MISUSED, CommandError, explain
from tools.train_split import _ending, _View, check_no_options, check_role
from training.errors import SplitFailed
from training.recipe import load_recipe
from training.split.recipe_run import SplitResult


@pytest.mark.parametrize(
    ("name", "role", "said"),
    [
        ("split-digits", None, "it needs --role client or --role server"),
        ("split-digits", "boss", "it has no role 'boss'"),
        ("digits", "server", "is not split between a server and clients"),
    ],
)
def test_roles_are_for_recipes_that_are_split(name: str, role: str | None, said: str) -> None:
    with pytest.raises(CommandError, match=said) as caught:
        check_role(load_recipe(name), role, name)
    assert caught.value.exit_code == MISUSED


def test_the_right_roles_are_taken() -> None:
    for name, role in (("digits", None), ("split-digits", "client"), ("split-digits", "server")):
        check_role(load_recipe(name), role, name)


def test_options_that_do_nothing_are_refused() -> None:
    check_no_options({"--tensorboard": False})
    with pytest.raises(CommandError, match="--checkpoint-dir does nothing in this role"):
        check_no_options({"--tensorboard": False, "--checkpoint-dir": True})


def test_what_people_see_of_a_server_and_of_a_client() -> None:
    screen = Console(file=io.StringIO(), width=200)
    view = _View(screen, "split-digits", 100)
    address = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWpeer"
    started = {"event": "started", "peer_id": "12D3KooWpeer", "run": "mine"}
    view.on_event(started | {"role": "server", "addresses": (address,)})
    view.on_event(started | {"role": "client", "addresses": ()})
    view.on_event({"event": "step", "step": 49, "loss": 0.5})
    view.on_event({"event": "step", "step": 51, "loss": 0.25, "clients": 2})
    view.on_event({"event": "step", "step": 101, "loss": None})
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue().splitlines() == [
        "12D3KooWpeer serves the run mine.",
        f"Clients join with: manyhands train split-digits --role client --initial-peers {address}",
        "12D3KooWpeer joined as a client.",
        "step 51 · 2 clients · loss 0.250",
        "step 101 of 100",
    ]


def test_how_it_ended() -> None:
    server = SplitResult(role="server", ended="stopped", peer_id="x", step=7, seconds=1.0)
    assert _ending(server) == "stopped after 7 batches of clients."
    client = SplitResult(role="client", ended="stopped", peer_id="x", step=7, seconds=1.0)
    assert _ending(client) == "stopped at step 7; connect again with the same command."
    finished = SplitResult(
        role="client",
        ended="finished",
        peer_id="x",
        step=9,
        seconds=2.4,
        path="punched",
        figures={"accuracy": 0.975},
        traffic={"payload_bytes_sent": 1_000_000, "payload_bytes_received": 2_000_000},
    )
    assert _ending(finished) == (
        "finished step 9: 97.5% of the test set right after 2 s; 3.0 MB went to and fro (punched)."
    )


def test_a_failed_session_is_explained() -> None:
    failure = explain(SplitFailed("lost", "the connection to the server was lost"))
    assert failure is not None
    assert failure.exit_code == ILL
    assert failure.sentence.endswith("check that the server still runs, and connect again")
    assert "--role server" in failure.next_step
