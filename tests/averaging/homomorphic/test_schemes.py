"""Both schemes against plain sums, and ciphertexts of other parameters or of none."""

import sys

import numpy as np
import pytest

from averaging.homomorphic import ExtraMissing, HomomorphicSpec, draw_key
from averaging.homomorphic.extra import load_extra
from averaging.homomorphic.scheme import Adder, Vector, adder_untrusted, key_id, key_untrusted
from averaging.homomorphic.spec import SchemeName
from p2p import MessageInvalid
from tests.averaging.homomorphic.keys import SCHEMES, SPECS, ckks_ciphertext, key_of

tenseal = pytest.importorskip("tenseal")
phe = pytest.importorskip("phe")


def adder_of(scheme: SchemeName) -> Adder:
    return adder_untrusted(SPECS[scheme], key_of(scheme).modulus)


def vectors(spec: HomomorphicSpec, members: int) -> list[Vector]:
    rng = np.random.default_rng(1)
    limit = spec.magnitude_max
    drawn = [
        np.concatenate(([1.0], rng.uniform(-limit, limit, spec.elements))) for _ in range(members)
    ]
    # The extremes together are what could run over.
    for vector in drawn:
        vector[1:3] = (limit, -limit)
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_sum_is_the_plain_sum_within_the_tolerance(scheme: SchemeName) -> None:
    spec, key, adder = SPECS[scheme], key_of(scheme), adder_of(scheme)
    members = 3
    plain = vectors(spec, members)
    sent = [key.encrypt(vector) for vector in plain]
    assert all(len(data) <= spec.bytes_max for data in sent)
    total = adder.load_untrusted(sent[0])
    for data in sent[1:]:
        total = adder.add(total, adder.load_untrusted(data))
    # Another member reads it, with the key as it travels.
    other = key_untrusted(spec, key.secret)
    assert key_id(other) == key_id(key)
    got = other.decrypt_untrusted(adder.dump(total), members)
    assert got.shape == (spec.numbers,)
    assert np.abs(got - sum(plain)).max() <= spec.tolerance(members)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ciphertexts_show_nothing_that_is_equal(scheme: SchemeName) -> None:
    spec, key = SPECS[scheme], key_of(scheme)
    zeros = np.zeros(spec.numbers)
    one, other = key.encrypt(zeros), key.encrypt(zeros)
    assert one != other
    assert zeros.tobytes()[:64] not in one


def test_what_an_adder_of_ckks_holds_does_not_decrypt() -> None:
    key, adder = key_of("ckks"), adder_of("ckks")
    numbers = vectors(SPECS["ckks"], 1)[0]
    (block, *_) = adder.load_untrusted(key.encrypt(numbers))
    assert np.abs(np.array(block.decrypt()) - numbers[:2048]).min() > 1.0


@pytest.mark.slow
def test_a_drawn_paillier_key_can_be_used() -> None:
    spec = SPECS["paillier"]
    key = draw_key(spec)
    assert key.secret != key_of("paillier").secret
    (numbers,) = vectors(spec, 1)
    got = key.decrypt_untrusted(key.encrypt(numbers), 1)
    assert np.abs(got - numbers).max() <= spec.tolerance(1)


WRONG_CKKS = {
    "ring": (8192, [55, 54], 32, 2048),
    "primes": (4096, [54, 53], 32, 2048),
    "scale": (4096, [55, 54], 31, 2048),
    "size": (4096, [55, 54], 32, 2000),
}


@pytest.mark.parametrize("what", WRONG_CKKS)
def test_ckks_of_other_parameters_is_refused(what: str) -> None:
    spec = HomomorphicSpec(elements=2000)
    with pytest.raises(MessageInvalid, match=r"parameters|more than 2000 elements"):
        adder_untrusted(spec, b"").load_untrusted(ckks_ciphertext(*WRONG_CKKS[what]))


def test_damaged_ckks_is_refused() -> None:
    data = key_of("ckks").encrypt(np.zeros(3001))
    adder = adder_of("ckks")
    for damaged in (b"", data[:100], data[:-1], data + b"x", bytes(8), data[:40] + data[41:]):
        with pytest.raises(MessageInvalid):
            adder.load_untrusted(damaged)
    with pytest.raises(MessageInvalid, match="no modulus"):
        adder_untrusted(SPECS["ckks"], b"n")


def test_paillier_of_another_modulus_is_refused() -> None:
    spec, key = SPECS["paillier"], key_of("paillier")
    adder = adder_of("paillier")
    modulus = int.from_bytes(key.modulus, "big")
    prime = int.from_bytes(key.secret[: spec.key_bits // 16], "big")
    good = key.encrypt(np.zeros(spec.numbers))
    for number in (0, modulus, prime, modulus**2, 2**4096 - 1):
        wrong = number.to_bytes(512, "big") + good[512:]
        with pytest.raises(MessageInvalid, match="of another modulus"):
            adder.load_untrusted(wrong)
    for data in (b"", good[:-1], good + bytes(512)):
        with pytest.raises(MessageInvalid, match="ciphertexts of 512"):
            adder.load_untrusted(data)
    for wrong in (b"", key.modulus[1:], bytes(256), (modulus - 1).to_bytes(256, "big")):
        with pytest.raises(MessageInvalid, match="not a modulus"):
            adder_untrusted(spec, wrong)


def test_keys_that_are_none_are_refused() -> None:
    ckks, paillier = SPECS["ckks"], SPECS["paillier"]
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 60])
    for secret in (b"", b"x", key_of("ckks").secret[:1000], context.serialize()):
        with pytest.raises(MessageInvalid):
            key_untrusted(ckks, secret)
    prime = key_of("paillier").secret[:128]
    even = (int.from_bytes(prime, "big") - 1).to_bytes(128, "big")
    not_prime = (int.from_bytes(prime, "big") - 2).to_bytes(128, "big")
    for secret in (b"", prime, prime + prime, prime + even, prime + not_prime, prime + bytes(128)):
        with pytest.raises(MessageInvalid, match="Paillier key"):
            key_untrusted(paillier, secret)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'manyhands\[homomorphic\]'"):
        load_extra("tenseal")
