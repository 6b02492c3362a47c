"""join(): entering, leaving, and what is told when it does not work."""

import gc
import os
import stat
import threading
from pathlib import Path

import pytest

from p2p import (
    AddressInvalid,
    IdentityError,
    ListenError,
    NodeConfig,
    PeerId,
    PortalClosed,
    UnreachableError,
)
from training import Swarm, SwarmConfig, join

NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWRBy97UB99e3J6hiPesre1MZeuNQvfan4gBziswrRJsNK"


def sockets() -> int:
    count = 0
    for number in range(256):
        try:
            count += stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            continue
    return count


def test_leaving_leaves_nothing() -> None:
    with join("warm-up"):
        pass
    # What earlier tests left to the garbage collector must not be closed while we count.
    gc.collect()
    before = sockets(), threading.enumerate()
    with join("test") as swarm:
        assert swarm.addresses[0].endswith(swarm.peer_id)
        assert sockets() > before[0]
    assert sockets() == before[0]
    assert [thread for thread in threading.enumerate() if thread.name == "manyhands-trio"] == []
    swarm.close()
    with pytest.raises(PortalClosed):
        swarm._portal.call(os.getpid)  # type: ignore[arg-type]


def test_peers_find_each_other_through_one_address() -> None:
    with join("test") as first, join("test", initial_peers=first.addresses) as second:
        assert first.peer_id != second.peer_id


@pytest.mark.slow
def test_peers_find_each_other_on_one_network_without_an_address() -> None:
    run, config = f"test-{os.getpid()}", NodeConfig(mdns=True)
    with join(run, node_config=config) as first, join(run, node_config=config) as second:
        assert second._portal.call(_connected_peers, second) == (first.peer_id,)


async def _connected_peers(swarm: Swarm) -> tuple[PeerId, ...]:
    return swarm._network[0].connected_peers


def test_a_client_has_no_address() -> None:
    with join("test") as node, join("test", initial_peers=node.addresses, client_mode=True) as me:
        assert me.addresses == ()


def test_an_identity_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    with join("test", identity_path=path) as swarm:
        first = swarm.peer_id
    with join("test", identity_path=str(path)) as swarm:
        assert swarm.peer_id == first
    path.chmod(0o644)
    with pytest.raises(IdentityError):
        join("test", identity_path=path)


@pytest.mark.parametrize("run", ["", "two words", "a/b", "-x", "x" * 65])
def test_a_bad_name_is_refused(run: str) -> None:
    with pytest.raises(ValueError, match="run's name"):
        join(run)


def test_what_cannot_be_joined_is_told_and_leaves_nothing() -> None:
    with pytest.raises(UnreachableError, match="9"):
        join("test", initial_peers=[NOBODY])
    with pytest.raises(AddressInvalid):
        join("test", initial_peers=["nonsense"])
    with join("test") as swarm, pytest.raises(ListenError):
        join("test", listen=[swarm.addresses[0].split("/p2p/")[0]])
    assert [thread for thread in threading.enumerate() if thread.name == "manyhands-trio"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"round_deadline_s": 0.0},
        {"accept_fraction": 0.0},
        {"accept_fraction": 1.1},
        {"failures_max": 0},
        {"patience_s_max": -1.0},
    ],
)
def test_senseless_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SwarmConfig(**wrong)  # type: ignore[arg-type]
