"""`manyhands access …`: keys and tokens for private swarms, and the options that use them."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.failures import MISUSED, CommandError
from tools.output import console, print_json

if TYPE_CHECKING:
    from p2p import Identity, NodeConfig, PeerId

app = typer.Typer(
    name="access",
    help="Keys and tokens for private swarms: who may take part, and until when.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
]
_DAY_S = 86_400.0


@app.command("new-swarm-key")
def new_swarm_key(
    path: Annotated[Path, typer.Argument(help="Where to put it.")], as_json: Json = False
) -> None:
    """Make a key that all members of a swarm share; who does not have it gets no answer.

    Example: manyhands access new-swarm-key swarm.key
    """
    from p2p import write_swarm_key

    write_swarm_key(path)
    if as_json:
        print_json({"path": str(path)})
    console(as_json=as_json).print(f"Give {path} to each member, on a safe way.", markup=False)


@app.command("issue")
def issue(
    peer: Annotated[str, typer.Option(help="The peer id that may take part.")],
    run: Annotated[str, typer.Option(help="The run that it may take part in.")],
    authority: Annotated[Path, typer.Option(help="The authority's key file.")],
    role: Annotated[str, typer.Option(help="A word for people.")] = "trainer",
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="For how long.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Print a token: one line, to be put into the file that the peer names with --token.

    Example: manyhands access issue --peer 12D3KooW… --run digits --authority authority.key
    """
    from p2p import sign_token, token_text

    now_s = time.time()
    identity = _authority(authority)
    token = sign_token(
        identity,
        run=run,
        peer_id=_peer(peer),
        role=role,
        not_before_s=now_s,
        expires_at_s=now_s + days * _DAY_S,
    )
    if as_json:
        print_json({"authority": identity.peer_id, "token": token_text(token)})
    else:
        typer.echo(token_text(token))
        console(as_json=True).print(f"Members name the authority {identity.peer_id}.")


@app.command("deny")
def deny(
    number: Annotated[int, typer.Option(min=1, help="Higher than that of the last list.")],
    authority: Annotated[Path, typer.Option(help="The authority's key file.")],
    peers: Annotated[list[str], typer.Argument(help="All peers that may take part no more.")],
    as_json: Json = False,
) -> None:
    """Print a deny list: it takes access back as soon as one member brings it.

    Example: manyhands access deny --number 2 --authority authority.key 12D3KooW… > deny.list
    """
    from p2p import deny_list_text, sign_deny_list

    identity = _authority(authority)
    signed = sign_deny_list(identity, number=number, peers=[_peer(peer) for peer in peers])
    if as_json:
        print_json({"authority": identity.peer_id, "deny_list": deny_list_text(signed)})
    else:
        typer.echo(deny_list_text(signed))
        console(as_json=True).print("One member that starts with it as deny_list is enough.")


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A token's file.")], as_json: Json = False
) -> None:
    """Show what a token says.

    Example: manyhands access show my.token
    """
    from p2p import read_token

    token = read_token(path)
    said = {
        "authority": token.authority,
        "run": token.run,
        "peer_id": token.peer_id,
        "role": token.role,
        "not_before_s": token.not_before_s,
        "expires_at_s": token.expires_at_s,
    }
    if as_json:
        print_json(said)
        return
    for name, value in said.items():
        if name.endswith("_s"):
            value = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(str(value))))
        console().print(f"{name.removesuffix('_s'):>12}  {value}", markup=False)


def _authority(path: Path) -> Identity:
    """The authority's key; a new one made for a mistyped name would sign what counts nowhere."""
    from p2p import Identity

    if not path.expanduser().exists():
        raise CommandError(
            f"There is no key file {path}",
            next_step=f"A new authority is made by: manyhands identity {path}",
            exit_code=MISUSED,
        )
    return Identity.load_or_create(path)


def _peer(text: str) -> PeerId:
    from p2p import MessageInvalid, parse_peer_id_untrusted

    try:
        return parse_peer_id_untrusted(text)
    except MessageInvalid as exc:
        raise CommandError(
            str(exc),
            next_step="A peer id looks like 12D3KooW…; `manyhands identity` prints a peer's own.",
            exit_code=MISUSED,
        ) from exc


Private = Annotated[
    Path | None,
    typer.Option(
        "--private",
        metavar="FILE",
        help="TOML file that says who may connect: swarm_key, authority with run, token and "
        "deny_list, allow, deny.",
    ),
]
_KEYS = {"swarm_key", "authority", "run", "token", "deny_list", "allow", "deny"}


def private_config(path: Path | None) -> NodeConfig:
    """A node's config with the rules of the file; paths in it are relative to it.

    Raises:
        CommandError: the file cannot be read, or says what makes no sense.
    """
    from p2p import AccessConfig, MessageInvalid, NodeConfig, parse_peer_id_untrusted

    if path is None:
        return NodeConfig()
    said = _read_toml(path)

    def file(name: str) -> Path | None:
        return path.parent / str(said[name]) if name in said else None

    def peers(name: str) -> tuple[PeerId, ...]:
        return tuple(parse_peer_id_untrusted(str(text)) for text in said.get(name, ()))

    try:
        access = None
        if missing := {"authority", "run", "token"} - said.keys():
            if missing != {"authority", "run", "token"}:
                raise _wrong(path, f"authority, run and token belong together: {missing} missing")
        else:
            token = file("token")
            assert token is not None
            access = AccessConfig(
                authority=parse_peer_id_untrusted(str(said["authority"])),
                run=str(said["run"]),
                token_path=token,
                deny_list_path=file("deny_list"),
            )
        return NodeConfig(
            swarm_key_path=file("swarm_key"),
            access=access,
            allow_peers=peers("allow"),
            deny_peers=peers("deny"),
        )
    except MessageInvalid as exc:
        raise _wrong(path, str(exc)) from exc


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise _wrong(path, str(exc)) from exc
    if unknown := said.keys() - _KEYS:
        raise _wrong(path, f"{', '.join(sorted(unknown))} is not known")
    return said


def _wrong(path: Path, reason: str) -> CommandError:
    return CommandError(
        f"{path} cannot say who may connect: {reason}",
        next_step=f"Write some of {', '.join(sorted(_KEYS))}; see docs/protocols/access.md.",
    )
