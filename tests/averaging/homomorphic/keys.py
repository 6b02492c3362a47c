"""Keys for tests of homomorphic sums."""

from __future__ import annotations

from functools import cache

from averaging.homomorphic import HomomorphicSpec, SecretKey, draw_key
from averaging.homomorphic.extra import load_extra
from averaging.homomorphic.scheme import key_untrusted
from averaging.homomorphic.spec import SchemeName

SCHEMES: tuple[SchemeName, ...] = ("ckks", "paillier")
# More than one ciphertext of each; Paillier's takes a tenth of a second each.
SPECS = {
    "ckks": HomomorphicSpec(elements=3000),
    "paillier": HomomorphicSpec(elements=60, scheme="paillier"),
}
# Drawn once, since to find two such primes takes seconds: p and q of 1024 bits.
PAILLIER_SECRET = bytes.fromhex(
    "ba12f147f926670c9d764b961890379d6024c7f8609a02c388c1e0c9310bca5aabbb22706597bd78ca07ff7e"
    "4b14730fca3a3b8f2c016697380e55379fd6435e419ff93667864e251881b19df26bd6688418f9f2ccff06de"
    "d53f03ac64d67f26552ad6a35b5117ff5de3195fe073156822c20dbcb178037e0e6a74d32381bc8bc38e49e1"
    "9eab340117837c1597c140e42fd0fc9aad90215c13c8e24fc118261ad315a8bbabb6d8f0d8b18be1c1bea308"
    "bdb9c2b3dc3f2f0274733c580b21693c4983ed49b92e2938023fd5926c06f3196f0add47e42240f93b3354ac"
    "25f8e4c3337dbb0ceb4680778790b88c2b513d9923d24c38a542714a988a61efe65df049"
)


@cache
def key_of(scheme: SchemeName) -> SecretKey:
    """One key for all tests."""
    if scheme == "paillier":
        return key_untrusted(SPECS[scheme], PAILLIER_SECRET)
    return draw_key(SPECS[scheme])


def ckks_ciphertext(degree: int, primes: list[int], scale_bits: int, numbers: int) -> bytes:
    """One ciphertext of these parameters, as a member would send it."""
    tenseal = load_extra("tenseal")
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=primes)
    context.global_scale = 2.0**scale_bits
    vector: bytes = tenseal.ckks_vector(context, [1.0] * numbers).serialize()
    return len(vector).to_bytes(4, "big") + vector
