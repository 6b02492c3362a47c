"""An asyncio web server that hosts a manyhands node: GET /peers, POST /connect?ADDRESS.

    python examples/asyncio_server.py [PORT]

In FastAPI the same two lines stand in the application's lifespan:

    @asynccontextmanager
    async def lifespan(app):
        async with open_guest() as app.state.guest:
            app.state.node = await app.state.guest.enter(open_node())
            yield

and a route says `await app.state.guest.call(app.state.node.connect_address, address)`.
"""

import asyncio
import json
import sys
from contextlib import suppress

from p2p import Guest, Node, P2PError, open_guest, open_node

REQUEST_BYTES_MAX = 4_096


async def answer(guest: Guest, node: Node, method: str, target: str) -> tuple[int, object]:
    """What to say to one request."""
    if (method, target) == ("GET", "/peers"):
        return 200, {"me": node.addresses, "peers": node.connected_peers}
    path, _, address = target.partition("?")
    if (method, path) == ("POST", "/connect"):
        try:
            return 200, {"connected": await guest.call(node.connect_address, address)}
        except P2PError as exc:
            return 502, {"error": str(exc)}
    return 404, {"error": "try GET /peers or POST /connect?/ip4/…"}


async def main(port: int) -> None:
    """Serve until Ctrl-C."""
    async with open_guest() as guest:
        node = await guest.enter(open_node())

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(10):
                    head = await reader.readuntil(b"\r\n\r\n")
                method, target, *_ = head.decode("ascii", "replace").split()
                status, said = await answer(guest, node, method, target)
                body = json.dumps(said).encode()
                head_lines = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n"
                writer.write(f"{head_lines}Connection: close\r\n\r\n".encode() + body)
                await writer.drain()
            except (ValueError, TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                pass  # no request, or nobody there any more to hear an answer
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", port, limit=REQUEST_BYTES_MAX)
        async with server:
            print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/peers", flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
