"""Whole sessions between two parties in one thread: results, sizes, replays, changed bytes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from p2p import MessageInvalid
from tests.training.privacy.inference.digits import digits, trained_network
from tests.training.privacy.inference.seeded import SESSION, listened, random_bytes, replay
from training.privacy.inference import FixedNetwork, fix_network
from training.privacy.inference.exchange import Exchange, run_pair
from training.privacy.inference.protocol import (
    Evaluator,
    Garbler,
    ask_classes,
    ask_comparison,
    serve_classes,
    serve_comparison,
    traffic_bytes,
)

INT64 = st.integers(-(2**63), 2**63 - 1)


def small_network(*sizes: int, seed: int = 0) -> FixedNetwork:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return fix_network(nn.Sequential(*layers[:-1]), feature_bits=6, feature_fraction_bits=4)


def features_for(network: FixedNetwork, samples: int) -> np.ndarray:
    limit = 2 ** (network.shape.feature_bits - 1)
    shape = (samples, network.shape.sizes[0])
    return np.random.default_rng(1).integers(-limit, limit, shape, dtype=np.int32)


def test_fifty_digits_are_classified_as_the_plain_network_does() -> None:
    network = fix_network(trained_network())
    pictures = digits()[0][-50:]
    features = network.shape.fix_features(pictures.numpy())
    asked: list[bytes] = []
    served: list[bytes] = []
    classes, _ = run_pair(
        listened(ask_classes(network.shape, features, SESSION, random_bytes(1)), asked),
        listened(serve_classes(network, 50, SESSION, random_bytes(2)), served),
    )
    assert classes.tolist() == trained_network()(pictures).argmax(1).tolist()
    sizes = tuple(sum(map(len, messages)) for messages in (asked, served))
    assert sizes == traffic_bytes(network.shape, 50)


@pytest.mark.parametrize("sizes", [(3, 2), (5, 3, 3), (4, 6, 5, 7), (1, 1, 2)])
def test_networks_of_any_depth_give_what_they_give_in_the_clear(sizes: tuple[int, ...]) -> None:
    network = small_network(*sizes)
    features = features_for(network, 9)
    classes, _ = run_pair(
        ask_classes(network.shape, features, SESSION, random_bytes(1)),
        serve_classes(network, 9, SESSION, random_bytes(2)),
    )
    assert classes.tolist() == network.classes(features).tolist()


@pytest.mark.slow
@given(
    weights=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=6, max_size=6),
    inputs=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4),
    bits=st.sampled_from([2, 9, 32]),
)
@settings(max_examples=10)
def test_products_of_shares(weights: list[int], inputs: list[int], bits: int) -> None:
    """Both shares together are the product modulo 2³², whatever the numbers are."""
    weights_OI = np.array(weights, dtype=np.int64).reshape(3, 2).astype(np.int32)
    inputs_BI = np.array(inputs, dtype=np.uint32).reshape(2, 2)
    garbler, evaluator = Garbler(SESSION, random_bytes(1)), Evaluator(SESSION, random_bytes(2))

    def serve() -> Exchange[np.ndarray]:
        yield from garbler.open()
        return (yield from garbler.multiply(weights_OI, 2, bits))

    def ask() -> Exchange[np.ndarray]:
        yield from evaluator.open()
        return (yield from evaluator.multiply(inputs_BI, 3, bits))

    theirs, mine = run_pair(serve(), ask())
    half = 2 ** (bits - 1)
    signed = (inputs_BI.astype(np.int64) + half) % (2 * half) - half
    expected = (signed @ weights_OI.T.astype(np.int64)).astype(np.uint32)
    np.testing.assert_array_equal(theirs + mine, expected)


@pytest.mark.slow
@given(mine=INT64, theirs=INT64)
@settings(max_examples=5)
def test_comparison(mine: int, theirs: int) -> None:
    for other in (theirs, mine):
        result, _ = run_pair(
            ask_comparison(mine, SESSION, random_bytes(1)),
            serve_comparison(other, SESSION, random_bytes(2)),
        )
        assert result == (mine > other) - (mine < other)


def test_what_the_client_sends_does_not_go_with_its_features() -> None:
    """With the same random bytes, messages for other features differ only as if one-time padded."""
    network = small_network(8, 2)
    sent = []
    for features in (np.zeros((1, 8), np.int32), np.full((1, 8), 31, np.int32)):
        for seed in (1, 2):
            heard: list[bytes] = []
            run_pair(
                listened(ask_classes(network.shape, features, SESSION, random_bytes(seed)), heard),
                serve_classes(network, 1, SESSION, random_bytes(3)),
            )
            sent.append(heard)
    # Sizes tell nothing, and neither do the points, which are drawn before anything is chosen.
    assert len({tuple(map(len, heard)) for heard in sent}) == 1
    assert sent[0][0] == sent[2][0]
    assert sent[0][1] != sent[1][1] != sent[2][1]
    for heard in sent:
        choices = np.unpackbits(np.frombuffer(heard[1], np.uint8))
        assert abs(choices.mean() - 0.5) < 4 * 0.5 / len(choices) ** 0.5


def test_a_class_that_there_is_not_is_no_answer() -> None:
    """A server calls zero one and one zero in both bits of the answer: 0 becomes 3."""
    network = small_network(3, 3)
    features = features_for(network, 30)
    of_class_zero = features[network.classes(features) == 0][:1]

    def lie(number: int, data: bytes) -> bytes:
        if number < 3:
            return data
        outputs = np.frombuffer(data[-4 * 16 :], np.uint8).reshape(2, 2, 16)
        return data[: -4 * 16] + outputs[:, ::-1].tobytes()

    with pytest.raises(MessageInvalid, match="a class that there is not"):
        run_pair(
            serve_classes(network, 1, SESSION, random_bytes(2)),
            ask_classes(network.shape, of_class_zero, SESSION, random_bytes(1)),
            lie,
        )


def test_a_replayed_session_decodes_to_nothing() -> None:
    recorded: list[bytes] = []
    run_pair(
        ask_comparison(5, SESSION, random_bytes(1)),
        listened(serve_comparison(7, SESSION, random_bytes(2)), recorded),
    )
    for session, seed in ((SESSION, 3), (b"another session", 1)):
        with pytest.raises(MessageInvalid, match="decode to nothing"):
            run_pair(replay(recorded), ask_comparison(5, session, random_bytes(seed)))


@pytest.mark.parametrize("message", [0, 1, 2])
def test_noise_ends_a_session_without_an_answer(message: int) -> None:
    """Whatever message of the server's is noise: its points, padded labels, or tables."""

    def tamper(number: int, data: bytes) -> bytes:
        return random_bytes(9)(len(data)) if number == message else data

    with pytest.raises(MessageInvalid, match=r"decode to nothing|a point is not"):
        run_pair(
            serve_comparison(7, SESSION, random_bytes(2)),
            ask_comparison(5, SESSION, random_bytes(1)),
            tamper,
        )


def test_a_server_refuses_points_that_are_none() -> None:
    def tamper(number: int, data: bytes) -> bytes:
        return bytes(len(data)) if number == 0 else data

    with pytest.raises(MessageInvalid, match="a point is not"):
        run_pair(
            ask_comparison(5, SESSION, random_bytes(1)),
            serve_comparison(7, SESSION, random_bytes(2)),
            tamper,
        )
