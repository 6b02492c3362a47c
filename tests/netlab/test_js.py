"""js-libp2p asks us to dial it back, in a real network with addresses that count as public."""

from __future__ import annotations

import pytest
import trio

from p2p.testing.netlab import Netlab
from tests.interop.js_peer import open_js_peer
from tests.interop.processes import JS, require
from tests.netlab.test_reach import two_public

PORT = 4002
PATIENCE_S = 60.0

pytestmark = pytest.mark.netlab


def test_we_dial_js_libp2p_back(lab: Netlab) -> None:
    require(*JS)
    first, _ = two_public(lab)
    # Asked itself, a js peer dials over the connection that is there, and closes that; a node that
    # has its answers has no need to ask.
    first.wait_for(reachability="public")
    host = lab.add_host("js")
    listen = f"/ip4/{host.address}/tcp/{PORT}"
    inside = ("ip", "netns", "exec", host.namespace)

    async def main() -> None:
        async with open_js_peer(listen, reach=True, inside=inside) as js:
            await js("connect", address=first.address)
            with trio.fail_after(PATIENCE_S):
                assert await js("verified", address=listen)

    trio.run(main)
