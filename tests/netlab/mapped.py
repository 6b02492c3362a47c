"""A program inside a home that has a port mapped; says as lines of JSON what becomes of it.

python -m tests.netlab.mapped PORT

Each line on stdin is a command: `observed HOST`, `changed`, `tell`; the end of stdin ends it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from typing import Any

import trio

from p2p.nat.portmap import PortMapper, PortMapping, open_port_mapper

HELLO = b"from the inside"


def say(event: str, **more: Any) -> None:
    """Tell the test."""
    print(json.dumps({"event": event, **more}), flush=True)


def as_json(mapping: PortMapping | None) -> dict[str, Any] | None:
    """The fields of a mapping."""
    return None if mapping is None else dataclasses.asdict(mapping)


async def greet(stream: trio.SocketStream) -> None:
    """What an outsider gets who comes in."""
    await stream.send_all(HELLO)


async def obey(mapper: PortMapper) -> None:
    """Do what stdin says."""
    async for line in trio.wrap_file(sys.stdin):
        command, *arguments = line.split()
        if command == "observed":
            mapper.check_observed(arguments[0])
        elif command == "changed":
            mapper.on_network_changed()
        say("told", mapping=as_json(mapper.mapping), problem=mapper.problem)


async def main(port: int) -> None:
    """Listen, map, obey."""
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_tcp, greet, port)
        async with open_port_mapper(
            port, on_change=lambda mapping: say("changed", mapping=as_json(mapping))
        ) as mapper:
            say("ready")
            await obey(mapper)
        say("left")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    trio.run(main, int(sys.argv[1]))
