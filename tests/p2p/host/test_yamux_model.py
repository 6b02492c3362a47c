"""Two yamux sessions wired together, against a simple model of what streams promise."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from p2p.host.yamux import YamuxSession
from p2p.host.yamux_window import RECEIVE_WINDOW, RECEIVE_WINDOW_MAX
from tests.p2p.host.wires import outgoing, pattern

UNSENT_MAX = 262_144
picks = st.integers(0, 1_000)
sizes = st.sampled_from([0, 1, 500, 40_000, UNSENT_MAX])


@dataclass(eq=False)
class End:
    """One end of a stream, as the program that holds it sees it."""

    side: int
    stream_id: int
    other: "End | None" = None
    sent_bytes: int = 0
    taken_bytes: int = 0
    finished: bool = False
    """It said that it sends no more."""
    gone: bool = False
    """It has closed or reset, and asks no more."""
    has_reset: bool = False
    broken: bool = False
    """It was told of a reset."""


class TwoSessions(RuleBasedStateMachine):
    """Programs at both sides do as they like; the wires carry bytes in pieces of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions = (YamuxSession(dialer=True), YamuxSession(dialer=False))
        self.wires = (bytearray(), bytearray())
        self.now_s = 0.0
        self.ends: tuple[dict[int, End], dict[int, End]] = ({}, {})

    def live(self) -> list[End]:
        return [end for ends in self.ends for end in ends.values() if not end.gone]

    def sendable(self) -> list[End]:
        return [end for end in self.live() if not end.finished and not end.broken]

    @initialize(side=st.integers(0, 1))
    def open_first(self, side: int) -> None:
        self.open(side)
        self.carry_all(side)

    @rule(side=st.integers(0, 1))
    def open(self, side: int) -> None:
        stream_id = self.sessions[side].open()
        self.ends[side][stream_id] = End(side, stream_id)

    @precondition(lambda self: self.sendable())
    @rule(pick=picks, sizes_bytes=st.lists(sizes, min_size=1, max_size=4))
    def send(self, pick: int, sizes_bytes: list[int]) -> None:
        ends = self.sendable()
        end = ends[pick % len(ends)]
        session = self.sessions[end.side]
        for wanted_bytes in sizes_bytes:
            size_bytes = min(wanted_bytes, session.room_bytes(end.stream_id, UNSENT_MAX))
            session.send(end.stream_id, pattern(end.sent_bytes, size_bytes))
            end.sent_bytes += size_bytes

    @precondition(lambda self: self.sendable())
    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        ends = self.sendable()
        end = ends[pick % len(ends)]
        self.sessions[end.side].finish(end.stream_id)
        end.finished = True

    @precondition(lambda self: self.live())
    @rule(pick=picks)
    def abandon(self, pick: int) -> None:
        ends = self.live()
        end = ends[pick % len(ends)]
        self.sessions[end.side].abandon(end.stream_id)
        end.gone = end.finished = True

    @precondition(lambda self: self.live())
    @rule(pick=picks)
    def reset(self, pick: int) -> None:
        ends = self.live()
        end = ends[pick % len(ends)]
        self.sessions[end.side].reset(end.stream_id)
        end.gone = end.has_reset = True

    @precondition(lambda self: self.live())
    @rule(pick=picks, size_bytes=st.sampled_from([1, 3_000, 1 << 20]))
    def take(self, pick: int, size_bytes: int) -> None:
        ends = self.live()
        self.take_from(ends[pick % len(ends)], size_bytes)

    def take_from(self, end: End, size_bytes: int) -> None:
        session = self.sessions[end.side]
        if not session.is_open(end.stream_id) or not session.unread_bytes(end.stream_id):
            return
        data = session.take(end.stream_id, size_bytes, self.now_s)
        assert 0 < len(data) <= size_bytes
        for start in range(0, len(data), 60_000):
            part = data[start : start + 60_000]
            assert part == pattern(end.taken_bytes + start, len(part))
        end.taken_bytes += len(data)

    @rule(
        side=st.integers(0, 1),
        limit_bytes=st.sampled_from([1, 50_000, 1 << 30]),
        size_bytes=st.sampled_from([0, 1, 13, 70_000, 1 << 30, 1 << 30]),
    )
    def move(self, side: int, limit_bytes: int, size_bytes: int) -> None:
        self.wires[side].extend(b"".join(self.sessions[side].next_frames(limit_bytes)))
        self.carry(side, size_bytes)

    def carry(self, side: int, size_bytes: int) -> None:
        """Bytes that this side has written reach the other."""
        data = bytes(self.wires[side][:size_bytes])
        del self.wires[side][:size_bytes]
        there = 1 - side
        received = self.sessions[there].on_bytes(data, self.now_s)
        for stream_id in received.opened:
            end = End(there, stream_id, other=self.ends[side][stream_id])
            self.ends[side][stream_id].other = end
            self.ends[there][stream_id] = end
        for stream_id in received.reset:
            end = self.ends[there][stream_id]
            end.broken = True
            # Nobody is reset without a reason: a reset, or a close that was not respected.
            assert end.other is not None
            assert end.other.gone

    def carry_all(self, side: int) -> bool:
        """All that this side has to say reaches the other; whether it was anything."""
        self.wires[side].extend(outgoing(self.sessions[side]))
        said = bool(self.wires[side])
        self.carry(side, 1 << 30)
        return said

    @rule(side=st.integers(0, 1))
    def tick(self, side: int) -> None:
        self.sessions[side].on_tick()

    @rule(side=st.integers(0, 1), value=st.integers(0, 3), passed_s=st.floats(0, 1))
    def ping(self, side: int, value: int, passed_s: float) -> None:
        self.sessions[side].ping(value, self.now_s)
        self.now_s += passed_s

    @invariant()
    def windows_are_kept(self) -> None:
        for session in self.sessions:
            states = session._streams.values()
            assert all(state.unread_bytes <= RECEIVE_WINDOW_MAX for state in states)
            assert all(state.send_window_bytes >= 0 for state in states)
            assert all(
                state.unread_bytes + state.credit_bytes + state.uncredited_bytes
                <= state.receive_window_bytes
                for state in states
                if not state.abandoned
            )
            assert session._unread.used == sum(state.unread_bytes for state in states)
            assert session.unsent_bytes == sum(state.unsent_bytes for state in states)
            assert session.windows._promised.used == sum(
                max(0, state.receive_window_bytes - RECEIVE_WINDOW) for state in states
            )

    @invariant()
    def nothing_is_made_up(self) -> None:
        for end in self.live():
            if end.other is not None:
                assert end.taken_bytes <= end.other.sent_bytes

    def teardown(self) -> None:
        """Let everything through: order is kept to the end, and no state stays."""
        self.settle()
        for end in self.live():
            if not end.broken and not end.finished:
                self.sessions[end.side].finish(end.stream_id)
                end.finished = True
        self.settle()
        for end in self.live():
            other = end.other
            if other is not None and not other.has_reset and not end.broken:
                assert end.taken_bytes == other.sent_bytes
        for end in self.live():
            self.sessions[end.side].abandon(end.stream_id)
        self.settle()
        for session in self.sessions:
            assert session._streams == {}
            assert not session._turns
            assert session._inbound_count == session.windows._wide_count == 0
            assert session._unread.used == session.unsent_bytes == 0

    def settle(self) -> None:
        """Write, carry and take until nothing moves."""
        moving = True
        while moving:
            moving = False
            for side in (0, 1):
                moving |= self.carry_all(side)
            for end in self.live():
                self.take_from(end, 1 << 30)


TwoSessions.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestTwoSessions = TwoSessions.TestCase
