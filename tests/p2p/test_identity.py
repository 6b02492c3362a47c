"""Identities: peer ids, signatures, and key files that are private, whole and checked."""

import os
import random
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import (
    Identity,
    IdentityError,
    MessageInvalid,
    PeerId,
    parse_peer_id_untrusted,
    short,
    verify_signature,
)
from p2p.peer_id import peer_id_of, public_key_of

# An RSA peer id (a SHA-256 multihash) and a secp256k1 one, as others in the network have.
RSA_PEER_ID = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
SECP256K1_PEER_ID = "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY"


def test_a_peer_id_is_base58_of_the_key() -> None:
    identity = Identity.generate(random.Random(1))
    # As py-libp2p spells this key.
    assert identity.peer_id == "12D3KooWKcHdPa3eaZxobqJXDd3rWZAU9fMF8iKWGmR8DzyDcZfi"
    assert public_key_of(identity.peer_id) == identity.public_key
    assert short(identity.peer_id) == identity.peer_id[-8:]


def test_identities_differ_unless_their_generators_agree() -> None:
    assert Identity.generate().peer_id != Identity.generate().peer_id
    one, two = (Identity.generate(random.Random(5)).peer_id for _ in range(2))
    assert one == two


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_hold_the_key(seed: bytes) -> None:
    public_key = Identity.generate(random.Random(seed)).public_key
    peer_id = peer_id_of(public_key)
    assert peer_id.startswith("12D3KooW")
    assert public_key_of(peer_id) == public_key
    assert parse_peer_id_untrusted(peer_id) == peer_id


@given(st.text(max_size=70))
def test_other_texts_are_no_peer_ids(text: str) -> None:
    with pytest.raises(MessageInvalid):
        parse_peer_id_untrusted(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda peer_id: "",
        lambda peer_id: peer_id + " ",
        lambda peer_id: " " + peer_id,
        lambda peer_id: peer_id + "\n",
        lambda peer_id: "1" + peer_id,
        lambda peer_id: peer_id[:-1],
        lambda peer_id: peer_id + peer_id,
        lambda peer_id: peer_id.lower(),
        lambda peer_id: "é" + peer_id[1:],
        lambda peer_id: "1" * 1_000_000,
        lambda peer_id: RSA_PEER_ID,
        lambda peer_id: SECP256K1_PEER_ID,
    ],
)
def test_only_the_canonical_spelling_counts(change: object) -> None:
    assert callable(change)
    with pytest.raises(MessageInvalid):
        parse_peer_id_untrusted(change(Identity.generate(random.Random(1)).peer_id))


@given(st.binary(max_size=200))
def test_signatures_prove_the_owner_and_the_message(message: bytes) -> None:
    alice, bob = Identity.generate(random.Random(1)), Identity.generate(random.Random(2))
    signature = alice.sign(message)
    assert len(signature) == 64
    assert verify_signature(alice.peer_id, message, signature)
    assert not verify_signature(bob.peer_id, message, signature)
    assert not verify_signature(alice.peer_id, message + b"x", signature)
    assert not verify_signature(alice.peer_id, message, signature[:-1] + b"\x00\x00")


@given(st.binary(max_size=80), st.text(max_size=70))
def test_false_signatures_and_false_peer_ids_verify_nothing(signature: bytes, text: str) -> None:
    identity = Identity.generate(random.Random(1))
    assert not verify_signature(identity.peer_id, b"message", signature)
    assert not verify_signature(PeerId(text), b"message", identity.sign(b"message"))


# Key files


def test_a_key_file_is_made_once_and_then_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "node.key"
    made = Identity.load_or_create(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["node.key"]
    loaded = Identity.load_or_create(str(path))
    assert loaded.peer_id == made.peer_id
    assert loaded.sign(b"x") == made.sign(b"x")
    assert verify_signature(made.peer_id, b"x", loaded.sign(b"x"))


def test_a_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    before = os.umask(0)
    try:
        Identity.load_or_create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    Identity.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        Identity.load_or_create(path)


@given(st.binary(max_size=100))
def test_what_is_no_key_file_is_not_touched(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.key"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(IdentityError):
            Identity.load_or_create(path)
        assert path.read_bytes() == data


def test_a_damaged_key_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    Identity.load_or_create(path)
    good = path.read_bytes()
    for damaged in (
        good[:-1],
        good + b"\x00",
        good[:4] + bytes([good[4] ^ 1]) + good[5:],
        good[:-1] + bytes([good[-1] ^ 1]),
        bytes([good[0] ^ 1]) + good[1:],
        bytes(len(good)),
    ):
        path.write_bytes(damaged)
        with pytest.raises(IdentityError, match=r"node\.key"):
            Identity.load_or_create(path)
        assert path.read_bytes() == damaged


def test_a_path_that_cannot_hold_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "node.key"):
        with pytest.raises(IdentityError, match="--identity"):
            Identity.load_or_create(path)


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(IdentityError, match="No space left on device"):
        Identity.load_or_create(tmp_path / "node.key")
    assert list(tmp_path.iterdir()) == []


def test_the_home_directory_may_be_abbreviated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Identity.load_or_create("~/node.key")
    assert (tmp_path / "node.key").exists()


@pytest.mark.parametrize("sign_bit", [0x00, 0x80])
@pytest.mark.parametrize(
    "text",
    [
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    ],
)
def test_a_key_under_which_anybody_can_sign_is_no_identity(text: str, sign_bit: int) -> None:
    key = bytearray.fromhex(text)
    key[31] |= sign_bit
    peer_id = peer_id_of(bytes(key))
    # R = the neutral element and S = 0 satisfy the equation for every message when A is neutral.
    forged = b"\x01" + bytes(63)
    assert not verify_signature(peer_id, b"any message", forged)
    with pytest.raises(MessageInvalid):
        parse_peer_id_untrusted(peer_id)


def test_of_two_processes_that_make_the_same_key_file_both_get_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    slower = Identity.generate()
    quicker = Identity.load_or_create(path)
    slower._save(path)
    assert Identity.load_or_create(path).peer_id == quicker.peer_id
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.key"]
