"""The few DNS messages of mDNS discovery: a question, and an answer with TXT strings (core).

Source: RFC 1035 §4 (messages), RFC 6762 (multicast DNS), libp2p specification, discovery/mdns.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from p2p.errors import MessageInvalid

DATAGRAM_BYTES_MAX = 9000
"""Source: RFC 6762 §17."""
STRING_BYTES_MAX = 255
_RECORDS_MAX = 64
_JUMPS_MAX = 16
_NAME_BYTES_MAX = 255
_HEADER = struct.Struct(">HHHHHH")
_QUESTION = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")
_RESPONSE = 0x8400
_IS_RESPONSE = 0x8000
_PTR, _TXT, _ANY = 12, 16, 255
_IN = 1
# The top bit of a class: "answer me alone" in questions, "forget older ones" in records.
_CLASS_MASK = 0x7FFF
_FLUSH = 0x8000
_POINTER = 0xC0


@dataclass(frozen=True)
class Advert:
    """What one instance of a service says of itself."""

    instance: str
    strings: tuple[bytes, ...]
    life_s: int
    """How long it holds; 0 takes it back."""


@dataclass(frozen=True)
class Heard:
    """What a datagram says, names in lower case without the last dot."""

    questions: tuple[str, ...]
    adverts: tuple[Advert, ...]


def encode_question(name: str) -> bytes:
    """The datagram that asks who offers a service."""
    return _HEADER.pack(0, 0, 1, 0, 0, 0) + _name(name) + _QUESTION.pack(_PTR, _IN)


def encode_answer(service: str, advert: Advert) -> bytes:
    """The datagram that says: this instance offers the service, and these are its strings."""
    texts = b"".join(bytes([len(text)]) + text for text in advert.strings) or b"\x00"
    pointer = _name(advert.instance)
    return b"".join(
        (
            _HEADER.pack(0, _RESPONSE, 0, 1, 0, 1),
            _name(service),
            _RECORD.pack(_PTR, _IN, advert.life_s, len(pointer)),
            pointer,
            pointer,
            _RECORD.pack(_TXT, _IN | _FLUSH, advert.life_s, len(texts)),
            texts,
        )
    )


def encode_service_list(meta: str, service: str, life_s: int) -> bytes:
    """The answer to those who ask which services there are at all (RFC 6763 §9)."""
    pointer = _name(service)
    record = _RECORD.pack(_PTR, _IN, life_s, len(pointer))
    return _HEADER.pack(0, _RESPONSE, 0, 1, 0, 0) + _name(meta) + record + pointer


def _name(text: str) -> bytes:
    labels = [label.encode() for label in text.split(".")]
    assert all(0 < len(label) < 64 for label in labels), text
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"


def decode_dns_untrusted(data: bytes) -> Heard:
    """The questions for services, and the TXT records, of a datagram from anybody.

    Raises:
        MessageInvalid: no DNS message, or one beyond our bounds.
    """
    if not _HEADER.size <= len(data) <= DATAGRAM_BYTES_MAX:
        raise MessageInvalid(f"a datagram of {len(data)} bytes is no DNS message")
    _, flags, *counts = _HEADER.unpack_from(data)
    if sum(counts) > _RECORDS_MAX:
        raise MessageInvalid(f"{sum(counts)} records in one datagram")
    reader = _Reader(data)
    questions: list[str] = []
    adverts: list[Advert] = []
    for _ in range(counts[0]):
        name = reader.name()
        kind, kind_class = reader.numbers(_QUESTION)
        if kind in (_PTR, _ANY) and kind_class & _CLASS_MASK == _IN:
            questions.append(name)
    for _ in range(sum(counts[1:])):
        name = reader.name()
        kind, kind_class, life_s, size_bytes = reader.numbers(_RECORD)
        body = reader.take(size_bytes)
        if kind == _TXT and kind_class & _CLASS_MASK == _IN:
            adverts.append(Advert(name, _strings(body), life_s))
    if flags & _IS_RESPONSE:
        return Heard((), tuple(adverts))
    # In a question, records are what the asker knows already; it speaks for others there.
    return Heard(tuple(questions), ())


def _strings(body: bytes) -> tuple[bytes, ...]:
    strings, place = [], 0
    while place < len(body):
        end = place + 1 + body[place]
        if end > len(body):
            raise MessageInvalid("a TXT string goes beyond its record")
        strings.append(body[place + 1 : end])
        place = end
    return tuple(text for text in strings if text)


class _Reader:
    """Walks through a datagram."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = _HEADER.size

    def take(self, size_bytes: int) -> bytes:
        end = self._place + size_bytes
        if end > len(self._data):
            raise MessageInvalid("a DNS message ends too early")
        taken = self._data[self._place : end]
        self._place = end
        return taken

    def numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def name(self) -> str:
        """A name, whose end may stand elsewhere in the message."""
        labels: list[bytes] = []
        size_bytes = jumps = 0
        back: int | None = None
        while length := self.take(1)[0]:
            if length & _POINTER == _POINTER:
                target = (length & ~_POINTER) << 8 | self.take(1)[0]
                jumps += 1
                if jumps > _JUMPS_MAX or target < _HEADER.size:
                    raise MessageInvalid("a DNS name points in circles")
                back = self._place if back is None else back
                self._place = target
                continue
            if length & _POINTER:
                raise MessageInvalid("a DNS label of an unknown kind")
            labels.append(self.take(length))
            size_bytes += length + 1
            if size_bytes > _NAME_BYTES_MAX:
                raise MessageInvalid("a DNS name is too long")
        if back is not None:
            self._place = back
        return b".".join(labels).decode("ascii", "replace").lower()
