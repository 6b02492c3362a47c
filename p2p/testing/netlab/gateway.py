"""The daemon of a router that opens ports for those inside who ask: UPnP IGD, NAT-PMP and PCP.

It is miniupnpd, which runs in many home routers. It refuses to map ports while the address
outside is private or shared (100.64.0.0/10), as a router behind a carrier's NAT has it.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path

from p2p.testing.netlab.namespaces import NetlabUnavailable
from p2p.testing.netlab.nat import LAN, WAN

_NAT_PMP_PORT = 5351
_READY_S_MAX = 20.0
_POLL_S = 0.01


def start_gateway(namespace: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start miniupnpd in a router's namespace; returns when it answers.

    Args:
        folder: an empty one for its settings and its log.

    Raises:
        NetlabUnavailable: it does not run on this machine; the text has its last words.
    """
    settings = folder / "miniupnpd.conf"
    settings.write_text(
        f"ext_ifname={WAN}\n"
        f"listening_ip={LAN}\n"
        "enable_natpmp=yes\n"
        "enable_upnp=yes\n"
        "secure_mode=no\n"
        f"uuid={uuid.uuid4()}\n"
        "allow 1024-65535 0.0.0.0/0 1024-65535\n"
        "deny 0-65535 0.0.0.0/0 0-65535\n",
        "utf-8",
    )
    files = ["-f", str(settings), "-P", str(folder / "miniupnpd.pid")]
    log = folder / "miniupnpd.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "miniupnpd", "-d", "-4", *files],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            # Ctrl-C is for who made the laboratory, who ends this in order.
            start_new_session=True,
        )
    deadline_s = time.monotonic() + _READY_S_MAX
    while not _listens(process.pid):
        if process.poll() is not None or time.monotonic() > deadline_s:
            process.kill()
            process.wait()
            words = log.read_text("utf-8", "replace").strip()[-500:]
            raise NetlabUnavailable(f"miniupnpd does not run here: {words}")
        time.sleep(_POLL_S)
    return process


def _listens(pid: int) -> bool:
    """Whether the process's namespace has a socket at the port that is opened last."""
    try:
        sockets = Path(f"/proc/{pid}/net/udp").read_text("utf-8")
    except OSError:
        return False
    return f":{_NAT_PMP_PORT:04X} " in sockets
