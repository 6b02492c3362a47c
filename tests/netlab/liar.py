"""A router's port mapping that lies; runs in the router, in place of a daemon.

python -m tests.netlab.liar garbage|nonce|elsewhere|epochs|huge
"""

from __future__ import annotations

import os
import socket
import struct
import sys

PORT = 5351
_PCP = struct.Struct("!BBBBII12x")


def pcp_answer(request: bytes, *, epoch_s: int, lifetime_s: int = 3_600) -> bytes:
    """A success for what PCP asks: the outer port as wished, at 5.6.7.10."""
    head = _PCP.pack(2, request[1] | 128, 0, 0, lifetime_s, epoch_s)
    body = request[24:44] + bytes(10) + b"\xff\xff" + bytes((5, 6, 7, 10))
    return head + (body if request[1] == 1 else b"")


def main(lie: str) -> None:
    """Answer every question with this lie."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as router,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere,
    ):
        router.bind(("0.0.0.0", PORT))
        elsewhere.bind(("0.0.0.0", PORT + 10))
        print("ready", flush=True)
        epoch_s = 0
        while True:
            request, peer = router.recvfrom(2_048)
            if lie == "garbage":
                for size_bytes in (0, 1, 8, 12, 16, 24, 60, 1_100, 1_400):
                    router.sendto(os.urandom(size_bytes), peer)
            elif request[0] != 2:
                continue
            elif lie == "nonce":
                answer = pcp_answer(request, epoch_s=1)
                forged = answer[:24] + bytes(12) + answer[36:] if request[1] == 1 else answer
                router.sendto(forged, peer)
            elif lie == "elsewhere":
                elsewhere.sendto(pcp_answer(request, epoch_s=1), peer)
            elif lie == "epochs":
                epoch_s = 1_000_000 - epoch_s
                router.sendto(pcp_answer(request, epoch_s=epoch_s), peer)
            elif lie == "huge":
                router.sendto(pcp_answer(request, epoch_s=1, lifetime_s=2**32 - 1), peer)


if __name__ == "__main__":
    main(sys.argv[1])
