"""Validators: what a record must fulfil where it is stored and where it is read."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from p2p.dht.record import Record, check_age, check_signature, signed_bytes
from p2p.errors import MessageInvalid, RecordInvalid
from p2p.wire import decode_untrusted

logger = logging.getLogger(__name__)

# Verified signatures remembered: a dictionary of a thousand peers, read again and again.
_VERIFIED_MAX = 8192


class RecordValidator(Protocol):
    """One link of the chain that each record passes."""

    def check(self, record: Record) -> None:
        """Raise RecordInvalid, saying why, when the record must not be stored or believed."""


@dataclass(frozen=True, kw_only=True)
class SchemaValidator:
    """Demands that values under certain keys decode to a typed, ranged message."""

    key_pattern: str
    """Regular expression for the whole key, such as ``.*/progress``; other keys pass unseen."""
    kind: Any
    """The struct, or union of tagged structs, that the MessagePack value must decode to."""
    owned: bool = False
    """Whether only signed subkeys of peers are welcome under these keys."""

    def __post_init__(self) -> None:
        re.compile(self.key_pattern)

    def check(self, record: Record) -> None:
        """Raise RecordInvalid when the value is not of this kind."""
        if re.fullmatch(self.key_pattern, record.key) is None:
            return
        if self.owned and record.owner is None:
            raise RecordInvalid("only signed subkeys peer:<id> are allowed under this key")
        try:
            decode_untrusted(record.value, self.kind, size_bytes_max=len(record.value))
        except MessageInvalid as exc:
            raise RecordInvalid(f"the value does not fit the schema of its key: {exc}") from exc


class SignatureValidator:
    """Demands the owner's signature on owned subkeys; remembers what it has verified."""

    def __init__(self, check: Callable[[Record], None] = check_signature) -> None:
        self._check = check
        self._verified: OrderedDict[bytes, None] = OrderedDict()

    def knows(self, record: Record) -> bool:
        """Whether checking this record is cheap: nothing to verify, or verified before."""
        return record.owner is None or _fingerprint(record) in self._verified

    def learn(self, record: Record) -> None:
        """Remember that check_signature() passed this record."""
        self._verified[_fingerprint(record)] = None
        if len(self._verified) > _VERIFIED_MAX:
            self._verified.popitem(last=False)

    def check(self, record: Record) -> None:
        """Raise RecordInvalid unless owner and signature fit."""
        if record.owner is None:
            self._check(record)
            return
        fingerprint = _fingerprint(record)
        if fingerprint in self._verified:
            self._verified.move_to_end(fingerprint)
            return
        self._check(record)
        self.learn(record)


def _fingerprint(record: Record) -> bytes:
    return hashlib.sha256(signed_bytes(record) + record.signature).digest()


class ValidatorChain:
    """Age, signature and the user's validators, in this order."""

    def __init__(
        self,
        validators: Sequence[RecordValidator] = (),
        check_signature: Callable[[Record], None] = check_signature,
    ) -> None:
        self.signatures = SignatureValidator(check_signature)
        self._validators = tuple(validators)

    def complaint(self, record: Record, swarm_wall_s: float) -> str | None:
        """Why a link refuses the record, or None when all pass it."""
        try:
            check_age(record, swarm_wall_s)
            self.signatures.check(record)
        except RecordInvalid as exc:
            return str(exc) or "invalid"
        for validator in self._validators:
            complaint = _complaint_of(validator, record)
            if complaint is not None:
                return complaint
        return None


def _complaint_of(validator: RecordValidator, record: Record) -> str | None:
    try:
        validator.check(record)
    except RecordInvalid as exc:
        return str(exc) or "invalid"
    except Exception as exc:
        # It is the program's own code, but on a stranger's bytes: they must not end the program.
        name = type(validator).__name__
        logger.warning("dht_validator_failed validator=%s key=%s", name, record.key, exc_info=exc)
        return f"the validator {name} failed on it: {type(exc).__name__}"
    return None


def signature_complaints(records: Sequence[Record]) -> list[str | None]:
    """What check_signature() says of each record: the heavy part, fit for another thread."""
    complaints: list[str | None] = []
    for record in records:
        try:
            check_signature(record)
        except RecordInvalid as exc:
            complaints.append(str(exc))
        else:
            complaints.append(None)
    return complaints
