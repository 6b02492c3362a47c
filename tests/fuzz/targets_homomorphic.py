"""Targets of homomorphic sums: ciphertexts, keys and moduli, and what an aggregator says."""

from __future__ import annotations

from functools import cache

import numpy as np

from averaging.homomorphic import HomomorphicSpec
from averaging.homomorphic.member import _sum_untrusted
from averaging.homomorphic.schema import Sum
from averaging.homomorphic.scheme import Adder, SecretKey, adder_untrusted, draw_key, key_untrusted
from averaging.homomorphic.spec import SchemeName
from p2p import MessageInvalid, decode_untrusted, encode
from tests.averaging.homomorphic.keys import PAILLIER_SECRET
from tests.fuzz.target import Target

SPECS = {
    "ckks": HomomorphicSpec(elements=3),
    "paillier": HomomorphicSpec(elements=3, scheme="paillier"),
}
SCHEMES: tuple[SchemeName, ...] = ("ckks", "paillier")
NUMBERS = np.array([1.0, 2.0, -3.0, 0.5])
# The beginnings of a real ciphertext and a real key; what follows is 60 kB of random coefficients,
# and is drawn anew by SEAL each time.
CKKS_CIPHERTEXT = bytes.fromhex(
    "0000f1770a02801012e6e2035ea110040302000066f100000000000028b52ffd6061ff658a073e03d04d3c21"
    "1040be19e48e4c89cc1dcbed286da21c4f528d227f46d7d0d4b66ddbb66d514c014c3c423c3d3c23445fc36a"
    "bc430009d2bd5c7e443fb8aef80dec81eab7d412975bda393285e471b6a8ba9abfeed2db1c580221fb6d7036"
    "c79a39d5e70a872c8941d913467bda0f8f0009d550af243af1443be1f997554be4c8ba0d8fc37d4e4d436c79"
    "4c6859b18411069e8428bc93e106c767"
)
CKKS_SECRET = bytes.fromhex(
    "0a465ea1100403020000460000000000000028b52ffd20596d0100e80200100002005ea11004030000001800"
    "0140fbffffff7f60fdffffff3f06008000602e3bbd010381c1172002120b100719000000000000f0411ab7e2"
    "030ab3e2035ea110040302000033f100000000000028b52ffd6048ffcd88071e03d0423c211040be19e4928d"
    "0d4be0666c444ce22f8fc2a9e589fad771364fc6799ee7213105493c3f3c333c913c2abcd7028c24965ea4f0"
    "ab1624446cff209f8424b7d589f8c3d5"
)


@cache
def key_of(scheme: SchemeName) -> SecretKey:
    if scheme == "paillier":
        return key_untrusted(SPECS[scheme], PAILLIER_SECRET)
    return draw_key(SPECS[scheme])


@cache
def adder_of(scheme: SchemeName) -> Adder:
    return adder_untrusted(SPECS[scheme], key_of(scheme).modulus)


def scheme_and_rest(data: bytes) -> tuple[SchemeName, bytes]:
    return SCHEMES[data[0] % 2 if data else 0], data[1:]


def run_ciphertext(data: bytes) -> None:
    scheme, rest = scheme_and_rest(data)
    adder = adder_of(scheme)
    try:
        loaded = adder.load_untrusted(rest)
    except MessageInvalid:
        return
    assert len(loaded) == SPECS[scheme].ciphertexts
    total = adder.dump(adder.add(loaded, loaded))
    if scheme == "ckks":
        # With Paillier this takes some time, and cannot go wrong.
        assert key_of(scheme).decrypt_untrusted(total, 2).shape == NUMBERS.shape


def run_secret(data: bytes) -> None:
    scheme, rest = scheme_and_rest(data)
    try:
        key = key_untrusted(SPECS[scheme], rest)
    except MessageInvalid:
        return
    if scheme == "ckks":
        # With Paillier a key that passes is one, and to use it takes a tenth of a second.
        assert len(key.encrypt(NUMBERS)) <= SPECS[scheme].bytes_max
    assert adder_untrusted(SPECS[scheme], key.modulus)


def run_sum(data: bytes) -> None:
    spec = SPECS["ckks"]
    try:
        message = decode_untrusted(data, Sum, size_bytes_max=4096)
        checked = _sum_untrusted(message, 1, 5, spec)
    except MessageInvalid:
        return
    assert 1 in checked.included
    assert list(checked.included) == sorted(set(checked.included) & set(range(5)))
    assert checked.size_bytes <= spec.bytes_max


MODULUS = int.from_bytes(key_of("paillier").modulus, "big")
# With the randomness 3.
PAILLIER_ZERO = pow(3, MODULUS, MODULUS**2).to_bytes(512, "big")
HOME = "averaging.homomorphic"
TARGETS = (
    Target(
        name="homomorphic.ciphertext",
        run=run_ciphertext,
        seeds=(b"\x00" + CKKS_CIPHERTEXT, b"\x01" + PAILLIER_ZERO),
        covers=(
            f"{HOME}.scheme.load_untrusted",
            f"{HOME}.scheme.decrypt_untrusted",
            f"{HOME}.ckks.load_untrusted",
            f"{HOME}.ckks.decrypt_untrusted",
            f"{HOME}.ckks._vectors_untrusted",
            f"{HOME}.ckks._vector_untrusted",
            f"{HOME}.paillier.load_untrusted",
            f"{HOME}.paillier.decrypt_untrusted",
            f"{HOME}.paillier._ciphertexts_untrusted",
        ),
    ),
    Target(
        name="homomorphic.secret",
        run=run_secret,
        seeds=(b"\x00" + CKKS_SECRET, b"\x01" + PAILLIER_SECRET),
        covers=(
            f"{HOME}.scheme.key_untrusted",
            f"{HOME}.scheme.adder_untrusted",
            f"{HOME}.ckks.key_untrusted",
            f"{HOME}.ckks.adder_untrusted",
            f"{HOME}.paillier.key_untrusted",
            f"{HOME}.paillier.adder_untrusted",
        ),
    ),
    Target(
        name="homomorphic.sum",
        run=run_sum,
        seeds=(encode(Sum((0, 1, 3), 60_000)), encode(Sum((1,), 1))),
        covers=(f"{HOME}.member._sum_untrusted",),
    ),
)
