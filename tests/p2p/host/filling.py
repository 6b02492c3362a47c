"""An intake that is one buffer, for whoever waits until that is full."""

from __future__ import annotations

from dataclasses import dataclass

from p2p import StreamBroken


@dataclass(eq=False)
class Filling:
    """A buffer that is filled as bytes come."""

    buffer: memoryview
    size_bytes: int = 0
    """How much of it has been filled."""
    reads_ahead = False

    @property
    def left_bytes(self) -> int:
        """How much it still wants."""
        return len(self.buffer) - self.size_bytes

    @property
    def ready(self) -> bool:
        """Whether it is full."""
        return self.size_bytes == len(self.buffer)

    def room(self, size_bytes: int) -> memoryview:
        """Where the next bytes go."""
        return self.buffer[self.size_bytes : self.size_bytes + size_bytes]

    def on_filled(self, size_bytes: int, now_s: float) -> bool:
        """So many more bytes are in; whether it is full now."""
        self.size_bytes += size_bytes
        return self.ready

    def on_end(self) -> None:
        """No more will come."""
        raise StreamBroken(f"the stream ended {self.left_bytes} bytes early")
