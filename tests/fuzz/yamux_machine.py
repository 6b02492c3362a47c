"""One yamux session between a program and a stranger, both of whom do what bytes tell them."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from p2p.host.budget import Budget, Share
from tests.fuzz.target import Choices

HEADER_BYTES = 12
INITIAL_WINDOW = 262_144
DATA, WINDOW_UPDATE = 0, 1
RST = 8
LENGTHS = (0, 1, 5, 1_000, 16_384, 65_537, 262_144, 1_048_576, 2**31, 2**32 - 1)
# What a frame of the stranger really carries; longer ones stay unfinished.
CARRIED_BYTES_MAX = 300_000
# A budget below one window, and one that windows fit into.
HELD_BYTES_MAX = (700_000, 4_000_000)


class Session(Protocol):
    """What the machine needs of the session under test."""

    def open(self) -> int: ...
    def send(self, stream_id: int, data: bytes) -> None: ...
    def finish(self, stream_id: int) -> None: ...
    def abandon(self, stream_id: int) -> None: ...
    def reset(self, stream_id: int) -> None: ...
    def take(self, stream_id: int, size_bytes: int) -> Any: ...
    def on_tick(self) -> None: ...
    def on_lost(self) -> None: ...
    def ping(self, value: int) -> None: ...
    def next_frames(self, limit_bytes: int) -> list[Any]: ...
    def on_bytes(self, data: bytes) -> Any: ...
    def is_open(self, stream_id: int) -> bool: ...
    def finished(self, stream_id: int) -> bool: ...
    def unread_bytes(self, stream_id: int) -> int: ...
    def room_bytes(self, stream_id: int, limit_bytes: int) -> int: ...


class Ledger:
    """What one direction has carried, frame by frame: data, and room granted to the other."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._skip_bytes = 0
        self.data_bytes: Counter[int] = Counter()
        self.granted_bytes: Counter[int] = Counter()
        self.frames = 0

    def feed(self, data: bytes) -> None:
        """Take in what was sent."""
        self._unread += data
        while True:
            skipped = min(self._skip_bytes, len(self._unread))
            del self._unread[:skipped]
            self._skip_bytes -= skipped
            if self._skip_bytes or len(self._unread) < HEADER_BYTES:
                return
            kind = self._unread[1]
            flags = int.from_bytes(self._unread[2:4], "big")
            stream_id = int.from_bytes(self._unread[4:8], "big")
            length = int.from_bytes(self._unread[8:12], "big")
            del self._unread[:HEADER_BYTES]
            self.frames += 1
            if kind == DATA:
                self.data_bytes[stream_id] += length
                self._skip_bytes = length
            elif kind == WINDOW_UPDATE and not flags & RST:
                self.granted_bytes[stream_id] += length

    @property
    def at_boundary(self) -> bool:
        """Whether the last frame is whole."""
        return not self._unread and not self._skip_bytes


class Machine:
    """The program's side, the stranger's side, and what must always hold between them."""

    def __init__(self, make: Any, choices: Choices) -> None:
        self.choices = choices
        self.dialer = bool(choices.number(2))
        held_bytes_max = choices.pick(HELD_BYTES_MAX)
        budget = Budget(total_max=3 * held_bytes_max, share_max=held_bytes_max)
        self.unread: Share = budget.open_share()
        self.unsent: Share = budget.open_share()
        self.budget = budget
        self.session: Session = make(self.dialer, self.unread, self.unsent)
        self.theirs = Ledger()
        self.ours = Ledger()
        self.taken: Counter[int] = Counter()
        self.known: dict[int, None] = {}
        """Every stream that there has been."""
        self.held: dict[int, None] = {}
        """Those that the program has neither closed nor reset."""
        self.broken: set[int] = set()
        self.last_output = b""

    def step(self) -> None:
        """One thing that either side does."""
        steps = (self.open, self.send, self.finish, self.abandon, self.reset, self.take)
        others = (self.tick, self.drain, self.ping, self.raw, self.frame, self.frame, self.reflect)
        self.choices.pick(steps + others)()
        self.check()

    # The program

    def a_held_stream(self) -> int | None:
        held = list(self.held)
        return self.choices.pick(held) if held else None

    def open(self) -> None:
        stream_id = self.session.open()
        assert stream_id % 2 == (1 if self.dialer else 0)
        assert stream_id not in self.known
        self.known[stream_id] = self.held[stream_id] = None

    def send(self) -> None:
        stream_id = self.a_held_stream()
        size_bytes = self.choices.pick(LENGTHS[:7])
        if stream_id is None or stream_id in self.broken or not self.session.is_open(stream_id):
            return
        if not self.session.finished(stream_id):
            room = self.session.room_bytes(stream_id, INITIAL_WINDOW)
            assert 0 <= room <= INITIAL_WINDOW
            self.session.send(stream_id, bytes(min(size_bytes, room)))

    def finish(self) -> None:
        stream_id = self.a_held_stream()
        if stream_id is None or stream_id in self.broken or not self.session.is_open(stream_id):
            return
        self.session.finish(stream_id)

    def abandon(self) -> None:
        stream_id = self.a_held_stream()
        if stream_id is not None:
            del self.held[stream_id]
            self.session.abandon(stream_id)

    def reset(self) -> None:
        stream_id = self.a_held_stream()
        if stream_id is not None:
            del self.held[stream_id]
            self.session.reset(stream_id)
            assert not self.session.is_open(stream_id)

    def take(self) -> None:
        stream_id = self.a_held_stream()
        size_bytes = self.choices.pick((1, 100, 100_000, 1 << 30))
        if stream_id is not None:
            self.take_from(stream_id, size_bytes)

    def take_from(self, stream_id: int, size_bytes: int) -> None:
        if self.session.is_open(stream_id) and self.session.unread_bytes(stream_id):
            data = self.session.take(stream_id, size_bytes)
            assert 0 < len(data) <= size_bytes
            self.taken[stream_id] += len(data)

    def tick(self) -> None:
        self.session.on_tick()

    def ping(self) -> None:
        self.session.ping(self.choices.number(256))

    def drain(self) -> None:
        limit_bytes = self.choices.pick((0, 1, 5_000, 262_144, 1 << 40))
        self.last_output = b"".join(self.session.next_frames(limit_bytes))
        self.ours.feed(self.last_output)
        # What we send is whole frames, and no more than the stranger has granted.
        assert self.ours.at_boundary
        for stream_id, sent_bytes in self.ours.data_bytes.items():
            assert sent_bytes <= INITIAL_WINDOW + self.theirs.granted_bytes[stream_id]
        # All grants are out now, so what is unread is within them.
        for stream_id in self.open_streams():
            granted = INITIAL_WINDOW + self.ours.granted_bytes[stream_id]
            unread_bytes = self.session.unread_bytes(stream_id)
            assert unread_bytes <= granted - self.taken[stream_id]

    # The stranger

    def raw(self) -> None:
        self.receive(self.choices.bytes(self.choices.number(64)))

    def frame(self) -> None:
        kind = self.choices.pick((DATA, WINDOW_UPDATE, DATA, WINDOW_UPDATE, 2, 3, 4))
        flags = self.choices.pick((0, 0, 1, 1, 2, 4, 8, 3, 5, 9, 12, 15, 0xFFFF))
        stream_id = self.choices.pick((1, 2, 3, 4, 5, 6, 7, 8, 0, 2**32 - 1, 2**32 - 2))
        length = self.choices.pick(LENGTHS)
        header = bytes([0, kind]) + flags.to_bytes(2, "big")
        header += stream_id.to_bytes(4, "big") + length.to_bytes(4, "big")
        carried = min(length, CARRIED_BYTES_MAX) if kind == DATA else 0
        self.receive(header + bytes(carried))

    def reflect(self) -> None:
        self.receive(self.last_output)

    def receive(self, data: bytes) -> None:
        self.theirs.feed(data)
        received = self.session.on_bytes(data)
        for stream_id in received.opened:
            assert stream_id not in self.known
            assert stream_id % 2 == (0 if self.dialer else 1)
            self.known[stream_id] = None
            if self.session.is_open(stream_id):
                self.held[stream_id] = None
        self.broken.update(received.reset)
        assert set(received.reset) <= set(self.known)
        assert set(received.touched) <= set(self.known)

    # What always holds

    def open_streams(self) -> list[int]:
        return [stream_id for stream_id in self.known if self.session.is_open(stream_id)]

    def check(self) -> None:
        """Books balance: what is held is what streams hold, and nothing is held below zero."""
        unread = [self.session.unread_bytes(stream_id) for stream_id in self.open_streams()]
        assert all(size_bytes >= 0 for size_bytes in unread)
        assert self.unread.used == sum(unread)
        assert self.unsent.used >= 0
        assert self.budget.used == self.unread.used + self.unsent.used

    def end(self) -> None:
        """The program closes all that it has; afterwards nothing is held for anybody."""
        for stream_id in self.open_streams():
            self.session.reset(stream_id)
        assert self.open_streams() == []
        self.check()
        assert self.unread.used == self.unsent.used == 0

    def end_lost(self) -> None:
        """The connection is gone: what came can still be taken, and then all is gone."""
        self.session.on_lost()
        assert self.budget.used == 0
        for stream_id in list(self.held):
            self.take_from(stream_id, 1 << 30)
            self.session.abandon(stream_id)
        assert self.session.next_frames(1 << 40) is not None
        assert self.budget.used == 0
