"""Validators: signatures are checked once, schemas where they apply, ages always."""

import pickle
import random
from dataclasses import replace
from typing import Annotated

import msgspec
import pytest

from p2p import Identity, Message, RecordInvalid, encode
from p2p.dht import DhtConfig
from p2p.dht.record import Record, owned_subkey, sign_record
from p2p.dht.validate import SchemaValidator, ValidatorChain, signature_complaints

ALICE = Identity.generate(random.Random(1))
NOW_S = 1.8e9


class Progress(Message, frozen=True):
    step: Annotated[int, msgspec.Meta(ge=0, le=1000)]


def signed(value: bytes, key: str = "run/progress") -> Record:
    return sign_record(
        Record(
            key=key,
            subkey=owned_subkey(ALICE.peer_id),
            value=value,
            sequence=1,
            life_ms=1000,
            signed_at_ms=int(NOW_S * 1000),
        ),
        ALICE,
    )


SCHEMA = SchemaValidator(key_pattern=r".*/progress", kind=Progress, owned=True)


def test_a_schema_passes_what_fits() -> None:
    SCHEMA.check(signed(encode(Progress(3))))


@pytest.mark.parametrize("value", [b"", b"\xff", encode(Progress(1001)), b"\x91\xa1x"])
def test_a_schema_refuses_what_does_not(value: bytes) -> None:
    with pytest.raises(RecordInvalid, match="schema"):
        SCHEMA.check(signed(value))


def test_a_schema_can_demand_an_owner() -> None:
    record = Record(key="run/progress", subkey="free", value=encode(Progress(3)))
    with pytest.raises(RecordInvalid, match="only signed subkeys"):
        SCHEMA.check(record)


def test_a_schema_leaves_other_keys_alone() -> None:
    SCHEMA.check(Record(key="run/other", subkey=None, value=b"\xff"))


def test_a_pattern_must_be_one() -> None:
    with pytest.raises(Exception, match="unterminated"):
        SchemaValidator(key_pattern="[", kind=Progress)


def test_the_chain_names_the_first_complaint() -> None:
    chain = ValidatorChain([SCHEMA])
    good = signed(encode(Progress(3)))
    assert chain.complaint(good, NOW_S) is None
    assert "future" in (chain.complaint(good, NOW_S - 10_000) or "")
    assert "owner" in (chain.complaint(replace(good, value=b"x"), NOW_S) or "")
    assert "schema" in (chain.complaint(signed(b"x"), NOW_S) or "")


def test_a_verified_signature_is_remembered_with_all_it_covers() -> None:
    chain = ValidatorChain()
    good = signed(b"x")
    assert not chain.signatures.knows(good)
    assert chain.complaint(good, NOW_S) is None
    assert chain.signatures.knows(good)
    for change in ({"value": b"y"}, {"key": "z"}, {"sequence": 2}, {"signature": bytes(64)}):
        tampered = replace(good, **change)
        assert not chain.signatures.knows(tampered)
        assert chain.complaint(tampered, NOW_S) is not None


def test_many_signatures_are_checked_one_by_one() -> None:
    good = signed(b"x")
    complaints = signature_complaints([good, replace(good, value=b"y"), good])
    assert complaints[0] is None
    assert complaints[2] is None
    assert "owner" in (complaints[1] or "")


class Careless:
    """A validator that takes for granted what a stranger need not give."""

    def check(self, record: Record) -> None:
        record.value.decode()


def test_what_a_validator_cannot_judge_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    chain = ValidatorChain([Careless()])
    assert chain.complaint(signed(b"text"), NOW_S) is None
    assert "Careless" in (chain.complaint(signed(b"\xff"), NOW_S) or "")
    assert "dht_validator_failed" in caplog.text


def test_validators_can_be_sent_to_another_process() -> None:
    config = DhtConfig(validators=(SCHEMA,))
    same = pickle.loads(pickle.dumps(config))
    assert same == config
    same.validators[0].check(signed(encode(Progress(3))))
    with pytest.raises(RecordInvalid, match="schema"):
        same.validators[0].check(signed(b"x"))
