"""`manyhands dht get` and `put`: one key's values, read and written."""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from p2p import Dht, Entry, Node, PutReport, RecordInvalid, owned_subkey, short
from tools.dht.entrance import Entrance, look
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.output import console, print_json

_SHOWN_MAX = 200
"""Characters of a value in the table; --json has all of it."""

Found = dict[str | None, Entry]


@dataclass(frozen=True)
class PutRequest:
    """What to store."""

    key: str
    text: str
    """Or - for what comes from stdin."""
    subkey: str | None = None
    ttl_s: float = 600.0
    signs: bool = False


def show_get(entrance: Entrance, key: str, subkey: str | None, *, as_json: bool) -> int:
    """Print what is under a key; returns the exit code.

    Raises:
        CommandError, p2p.P2PError: the swarm cannot be asked.
    """

    async def ask(_node: Node, dht: Dht) -> Found:
        plain = await dht.get(key, subkey=subkey)
        found: Found = {} if plain is None else {subkey: plain}
        if subkey is None:
            found.update(await dht.get_dictionary(key))
        return found

    found = look(entrance, ask, doing=f"Asking for {key!r} …", as_json=as_json)
    if found is None:
        return ILL
    if as_json:
        print_json({"key": key, "found": [_as_object(name, one) for name, one in found.items()]})
    screen = console(as_json=as_json)
    if not found:
        screen.print("Nothing is there: it was never put, has expired, or its holders are gone.")
        screen.print("Who was asked, and what each said: manyhands dht trace, with the same key")
        return ILL
    if not as_json:
        screen.print(_table(key, found))
        screen.print("Which nodes hold it: manyhands dht trace, with the same key")
    return WELL


def readable(value: bytes) -> str:
    """A stranger's bytes as text that cannot steer a terminal; other bytes are escaped."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return repr(value)[2:-1]
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def _as_object(subkey: str | None, entry: Entry) -> dict[str, Any]:
    try:
        text: str | None = entry.value.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    return {
        "subkey": subkey,
        "text": text,
        "base64": base64.b64encode(entry.value).decode(),
        "remaining_s": round(entry.remaining_s, 3),
        "owner": entry.owner,
        "sequence": entry.sequence,
    }


def _table(key: str, found: Found) -> Table:
    table = Table(title=readable(key.encode()))
    table.add_column("subkey", overflow="fold")
    table.add_column("value", overflow="fold")
    for heading in ("bytes", "lives on for"):
        table.add_column(heading, justify="right")
    table.add_column("signed by")
    for subkey, entry in found.items():
        text = readable(entry.value)
        shown = text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
        # Brackets of a stranger's text are no markup.
        table.add_row(
            "" if subkey is None else readable(subkey.encode()).replace("[", "\\["),
            shown.replace("[", "\\["),
            str(len(entry.value)),
            f"{entry.remaining_s:.0f} s",
            "" if entry.owner is None else short(entry.owner),
        )
    return table


def show_put(entrance: Entrance, request: PutRequest, *, as_json: bool) -> int:
    """Store a value and say who holds it; returns the exit code.

    Raises:
        CommandError: it cannot be stored as it is, or the swarm cannot be found.
        p2p.P2PError: the swarm cannot be asked.
    """
    if request.signs and request.subkey is not None:
        raise CommandError(
            "--sign stores under the subkey of our own peer id, so --subkey cannot be another",
            next_step="Leave out one of the two.",
            exit_code=MISUSED,
        )
    text = request.text
    value = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")

    async def ask(node: Node, dht: Dht) -> tuple[str | None, PutReport]:
        subkey = owned_subkey(node.peer_id) if request.signs else request.subkey
        try:
            return subkey, await dht.put(request.key, value, subkey=subkey, ttl_s=request.ttl_s)
        except RecordInvalid as exc:
            raise CommandError(
                f"It cannot be stored: {exc}",
                next_step="Signed values live at most an hour, others at most a day, and none is "
                "larger than 16384 bytes; a subkey peer:<id> is written with --sign only.",
                exit_code=MISUSED,
            ) from exc

    put = look(entrance, ask, doing=f"Storing {len(value)} bytes …", as_json=as_json)
    if put is None:
        return ILL
    subkey, report = put
    if as_json:
        print_json(
            {
                "key": request.key,
                "subkey": subkey,
                "replicas": report.replicas,
                "newer": report.newer,
                "sequence": report.sequence,
                "refused": dict(report.refused),
            }
        )
    _tell(report, as_json=as_json)
    return WELL if report.replicas else ILL


def _tell(report: PutReport, *, as_json: bool) -> None:
    screen = console(as_json=as_json)
    screen.print(f"{report.replicas} nodes hold it.", markup=False)
    for peer_id, cause in report.refused.items():
        screen.print(f"{short(peer_id)} does not: {cause}", markup=False)
    if report.newer:
        screen.print(f"{report.newer} nodes hold a newer one, and kept it.")
    if report.replicas:
        screen.print("To see it: manyhands dht get, with the same key")
    elif report.newer:
        screen.print("Put it again with a longer --ttl: the one that expires later wins.")
    else:
        screen.print("See with `manyhands dht stats` whether the nodes are full, and try later.")
