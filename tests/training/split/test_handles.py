"""serve() and connect(): plain PyTorch code at both ends, over real sockets on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import training
from tests.training.split.world import batches, copies, gap, make_model, optimizer_of, train_alone
from training.errors import SplitFailed
from training.split import (
    Parts,
    SplitClientConfig,
    SplitServer,
    SplitServerConfig,
    connect,
    cut,
    serve,
)

RUN = "split-test"
cross_entropy = nn.functional.cross_entropy


def parts_of(at: int | tuple[int, int] = 2) -> Parts:
    return cut(make_model(), at, example=batches(1)[0][0])


@contextmanager
def serving(parts: Parts, *, clients: int = 1, **more: Any) -> Iterator[SplitServer]:
    """A server whose body is trained in a thread of its own."""
    loss = None if parts.is_u_shaped else cross_entropy
    opened = threading.Event()
    servers: list[SplitServer] = []
    errors: list[BaseException] = []

    def train() -> None:
        try:
            with serve(RUN, parts, optimizer=optimizer_of(parts.body), loss=loss, **more) as one:
                servers.append(one)
                opened.set()
                one.run(clients=clients, timeout_s=40)
        except BaseException as exc:
            errors.append(exc)
            opened.set()

    thread = threading.Thread(target=train)
    thread.start()
    try:
        opened.wait(40)
        assert not errors
        yield servers[0]
    finally:
        thread.join()
    assert not errors, errors


def test_three_lines_on_both_sides() -> None:
    parts = parts_of()
    alone = copies(*parts.fronts, parts.body)
    data = batches(20)
    expected = train_alone(alone, data)
    optimizer = optimizer_of(*parts.fronts)
    with (
        serving(parts) as served,
        connect(RUN, parts, optimizer=optimizer, initial_peers=served.addresses) as server,
    ):
        losses = [server.step(inputs, labels) for inputs, labels in data]
        assert server.server == served.peer_id
        assert server.path == "direct"
        assert server.traffic.batches == 20
        assert served.traffic.values_received == server.traffic.values_sent == 20 * 6 * 10
        predicted = server.predict(data[0][0])
    assert losses == pytest.approx(expected, abs=1e-15)
    assert gap(alone, copies(*parts.fronts, parts.body)) == 0
    whole = nn.Sequential(*alone)
    assert torch.equal(predicted, whole(data[0][0]).detach())
    assert [one for one in threading.enumerate() if one.name == "manyhands-trio"] == []


@pytest.mark.parametrize("keeper", ["peers", "server"])
def test_clients_in_turn_are_one_client(keeper: Any) -> None:
    """Two clients with other data each hand their weights on: as if one had all the data."""
    parts = parts_of((2, 4)) if keeper == "peers" else parts_of()
    front, tail = parts.fronts[0], parts.tail
    alone = copies(front, parts.body, tail)
    data = batches(12)
    train_alone(alone, data)
    loss = cross_entropy if parts.is_u_shaped else None
    other = make_model(seed=9)
    strangers = cut(other, (2, 4) if parts.is_u_shaped else 2, example=data[0][0])
    config = SplitServerConfig(client_weights=keeper)
    both = (parts, strangers)
    with serving(parts, clients=2, config=config) as served:
        # Who leaves last has nobody to hand its weights to.
        own = SplitClientConfig(hand_on_s=0.01)
        peers = {"loss": loss, "initial_peers": served.addresses, "config": own}
        optimizers = [optimizer_of(one.fronts[0], one.tail) for one in both]
        with (
            connect(RUN, both[0], optimizer=optimizers[0], **peers) as alice,
            connect(RUN, both[1], optimizer=optimizers[1], **peers) as bob,
        ):
            for index, client in enumerate((alice, bob, alice, bob)):
                with client.turn():
                    for inputs, labels in data[3 * index : 3 * index + 3]:
                        client.step(inputs, labels)
            assert bob.traffic.weight_bytes_received > alice.traffic.weight_bytes_received > 0
    newest = copies(strangers.fronts[0], parts.body, strangers.tail)
    assert gap(newest, alone) == 0


def test_steps_out_of_turn_are_refused() -> None:
    parts = parts_of()
    optimizer = optimizer_of(*parts.fronts)
    config = SplitServerConfig(client_weights="server")
    with serving(parts, clients=2, config=config) as served:
        peers = served.addresses
        with (
            pytest.raises(SplitFailed, match="not this client's turn"),
            connect(RUN, parts, optimizer=optimizer, initial_peers=peers) as server,
        ):
            server.step(*batches(1)[0])
        with connect(RUN, parts, optimizer=optimizer, initial_peers=peers) as server, server.turn():
            server.step(*batches(1)[0])
        with connect(RUN, parts, optimizer=optimizer, initial_peers=peers) as server:
            with pytest.raises(ZeroDivisionError), server.turn():
                raise ZeroDivisionError
            with pytest.raises(SplitFailed, match="ended by an error here"), server.turn():
                pass


def test_an_extra_loss_stays_with_the_client() -> None:
    """alpha · extra + (1 − alpha) · task, as one machine would compute it, with no more bytes."""
    alpha = 0.3
    data = batches(10)

    def extra(inputs: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return (inputs.mean() - hidden.pow(2).mean()).pow(2)

    for at in (2, (2, 4)):
        parts = parts_of(at)
        front, body, tail = parts.fronts[0], parts.body, parts.tail
        alone = copies(front, body, tail)
        optimizer = optimizer_of(*alone)
        for inputs, labels in data:
            optimizer.zero_grad()
            hidden = alone[0](inputs)
            output = nn.Sequential(*alone[1:])(hidden)
            task = cross_entropy(output, labels)
            (alpha * extra(inputs, hidden) + (1 - alpha) * task).backward()
            optimizer.step()
        loss = cross_entropy if tail is not None else None
        with (
            serving(parts) as served,
            connect(
                RUN,
                parts,
                optimizer=optimizer_of(front, tail),
                loss=loss,
                extra_loss=extra,
                alpha=alpha,
                initial_peers=served.addresses,
            ) as server,
        ):
            for inputs, labels in data:
                server.step(inputs, labels)
            width = sum(parts.cut_shapes[0]) + sum(parts.output_shape)
            assert server.traffic.values_sent == 10 * 6 * width
        assert gap(copies(front, body, tail), alone) < 1e-14


def test_a_window_is_flushed_at_the_end() -> None:
    parts = parts_of()
    config = SplitClientConfig(window=3, codec="float32")
    with (
        serving(parts) as served,
        connect(
            RUN,
            parts,
            optimizer=optimizer_of(*parts.fronts),
            initial_peers=served.addresses,
            config=config,
        ) as server,
    ):
        losses = [server.step(*one) for one in batches(6)]
        assert losses[:2] == [None, None]
        assert all(loss is not None for loss in losses[2:])
        assert len(server.flush()) == 2
        assert server.traffic.batches == 6


def test_misuse_is_told_before_anything_is_opened() -> None:
    parts, u_shaped = parts_of(), parts_of((2, 4))
    body_only = replace(parts, fronts=())
    optimizer = optimizer_of(*parts.fronts)
    with pytest.raises(ValueError, match="have no body"):
        serve(RUN, replace(parts, body=None), optimizer=None, loss=cross_entropy)
    with pytest.raises(ValueError, match="a loss if, and only if"):
        serve(RUN, parts, optimizer=None)
    with pytest.raises(ValueError, match="a loss if, and only if"):
        serve(RUN, u_shaped, optimizer=None, loss=cross_entropy)
    with pytest.raises(ValueError, match="no front for party 0"):
        connect(RUN, body_only, optimizer=optimizer)
    with pytest.raises(ValueError, match="no front for party 1"):
        connect(RUN, parts, optimizer=optimizer, party=1)
    with pytest.raises(ValueError, match="needs a tail and a loss"):
        connect(RUN, u_shaped, optimizer=optimizer)
    with pytest.raises(ValueError, match="there is no codec 'int3'"):
        connect(RUN, parts, optimizer=optimizer, config=SplitClientConfig(codec="int3"))
    with pytest.raises(ValueError, match="both extra_loss and alpha"):
        connect(RUN, parts, optimizer=optimizer, alpha=0.5)
    with pytest.raises(ValueError, match="the run's name"):
        connect("a b", parts, optimizer=optimizer)
    with pytest.raises(ValueError, match="float32 or float64, not bfloat16"):
        connect(RUN, cut(make_model(torch.bfloat16), 2, example=batches(1)[0][0].bfloat16()),
                optimizer=None)  # fmt: skip


def test_no_server_is_told() -> None:
    parts = parts_of()
    with (
        training.join(RUN) as swarm,
        pytest.raises(SplitFailed, match="no server of the run 'split-test' was found") as caught,
    ):
        connect(
            RUN,
            parts,
            optimizer=optimizer_of(*parts.fronts),
            initial_peers=swarm.addresses,
            config=SplitClientConfig(find_s=0.2),
        )
    assert caught.value.code == "no-server"


def test_names_are_there_without_an_import_of_their_own() -> None:
    assert training.split.connect is connect
    assert "serve" in dir(training.split)
    with pytest.raises(AttributeError, match="has no attribute 'cleave'"):
        training.split.cleave  # type: ignore[attr-defined]  # noqa: B018


def test_an_error_in_the_users_own_loss_ends_the_session_and_is_told() -> None:
    parts = parts_of((2, 4))
    front, tail = parts.fronts[0], parts.tail
    before = copies(front, parts.body, tail)

    def broken(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with serving(parts, clients=2) as served:
        with connect(
            RUN,
            parts,
            optimizer=optimizer_of(front, tail),
            loss=broken,
            initial_peers=served.addresses,
        ) as server:
            inputs, labels = batches(1)[0]
            with pytest.raises(ZeroDivisionError):
                server.step(inputs, labels)
            with pytest.raises(SplitFailed, match="ended by an error here"):
                server.step(inputs, labels)
        assert gap(copies(front, parts.body, tail), before) == 0
        with connect(
            RUN,
            parts,
            optimizer=optimizer_of(front, tail),
            loss=cross_entropy,
            initial_peers=served.addresses,
        ) as server:
            server.step(inputs, labels)


def test_who_leaves_with_the_newest_weights_waits_until_they_are_taken_over() -> None:
    parts, others = parts_of(), cut(make_model(seed=9), 2, example=batches(1)[0][0])
    config = SplitServerConfig(client_weights="peers")
    left, is_leaving = threading.Event(), threading.Event()

    def train_and_leave(addresses: tuple[str, ...]) -> None:
        optimizer = optimizer_of(*parts.fronts)
        with connect(RUN, parts, optimizer=optimizer, initial_peers=addresses) as alice:
            with alice.turn():
                alice.step(*batches(1)[0])
            is_leaving.set()
        left.set()

    with serving(parts, clients=2, config=config) as served:
        optimizer = optimizer_of(*others.fronts)
        with connect(RUN, others, optimizer=optimizer, initial_peers=served.addresses) as bob:
            thread = threading.Thread(target=train_and_leave, args=(served.addresses,))
            thread.start()
            assert is_leaving.wait(40)
            with bob.turn():
                assert not left.is_set()
                assert gap(copies(*others.fronts), copies(*parts.fronts)) == 0
                bob.step(*batches(1)[0])
                assert left.wait(40)
            thread.join()
