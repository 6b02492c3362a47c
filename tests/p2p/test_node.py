"""open_node on real sockets: clear errors on bad input, and nothing left behind."""

import os
import threading
from pathlib import Path

import psutil
import pytest
import trio
import trio.testing

from p2p import (
    AddressInvalid,
    Identity,
    IdentityError,
    ListenError,
    NodeConfig,
    UnreachableError,
    open_node,
)
from tests.p2p.worlds import PROTOCOL, echo


async def check_refused(config: NodeConfig, error: type[Exception], *words: str) -> None:
    """Opening fails with one sentence that says what is wrong and what to do."""
    before = psutil.Process().num_fds()
    with pytest.raises(error) as caught:
        async with open_node(config):
            pass
    for word in words:
        assert word in str(caught.value)
    assert psutil.Process().num_fds() == before


# Addresses


async def test_a_port_in_use() -> None:
    async with open_node() as node:
        port = node.addresses[0].split("/")[4]
        taken = f"/ip4/127.0.0.1/tcp/{port}"
        # The first address can be listened on, and must not stay open.
        config = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0", taken))
        await check_refused(config, ListenError, taken, "in use", "choose another port")


async def test_an_address_that_is_not_ours() -> None:
    config = NodeConfig(listen=("/ip4/192.0.2.1/tcp/0",))
    await check_refused(config, ListenError, "192.0.2.1", "not an address of this machine")


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:4001", "/ip4/127.0.0.1", "/ip4/999.0.0.1/tcp/1", "/ip4/1.2.3.4/tcp/70000"],
)
def test_what_is_no_multiaddress(address: str) -> None:
    for option in ("listen", "announce"):
        with pytest.raises(AddressInvalid):
            NodeConfig(**{option: (address,)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"listen": "/ip4/127.0.0.1/tcp/0"}, "several"),
        ({"dial_timeout_s": 0}, "dial_timeout_s"),
        ({"dial_timeout_s": float("nan")}, "dial_timeout_s"),
        ({"inbound_connections_max": 0}, "inbound_connections_max"),
        ({"inbound_connections_per_host_max": 0}, "inbound_connections_per_host_max"),
        ({"handshakes_max": -1}, "handshakes_max"),
        ({"handshakes_per_host_max": 0}, "handshakes_per_host_max"),
        ({"buffered_bytes_max": 0}, "buffered_bytes_max"),
    ],
)
def test_options_out_of_range(options: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        NodeConfig(**options)  # type: ignore[arg-type]


async def test_addresses_to_dial() -> None:
    async with open_node() as node:
        peer_id = Identity.generate().peer_id
        for address, word in [
            ("nonsense", "multiaddress"),
            ("/ip4/127.0.0.1/tcp/1", "lacks the peer id"),
            (f"/ip4/127.0.0.1/tcp/0/p2p/{peer_id}", "only good for listening"),
            (f"/ip4/0.0.0.0/tcp/1/p2p/{peer_id}", "only good for listening"),
            ("/ip4/127.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "Ed25519"),
        ]:
            with pytest.raises(AddressInvalid, match=word):
                await node.connect_address(address)


async def test_listening_everywhere_tells_real_addresses() -> None:
    async with open_node(NodeConfig(listen=("/ip4/0.0.0.0/tcp/0",))) as node:
        assert node.addresses
        assert not any("/0.0.0.0/" in address for address in node.addresses)
        async with open_node(NodeConfig(client_mode=True)) as client:
            await client.connect(node.peer_id, node.addresses)


async def test_what_is_announced_stands_for_what_is_found() -> None:
    config = NodeConfig(announce=("/dns4/peer.example.org/tcp/4001",))
    async with open_node(config) as node:
        assert node.addresses == (f"/dns4/peer.example.org/tcp/4001/p2p/{node.peer_id}",)


async def test_a_client_listens_nowhere() -> None:
    before = psutil.Process().num_fds()
    async with open_node(NodeConfig(client_mode=True)) as node:
        assert node.addresses == ()
        assert psutil.Process().num_fds() == before


# Key files


async def test_the_identity_is_kept(tmp_path: Path) -> None:
    config = NodeConfig(identity_path=tmp_path / "deep" / "key")
    async with open_node(config) as node:
        peer_id = node.peer_id
    async with open_node(config) as node:
        assert node.peer_id == peer_id
    async with open_node() as one, open_node() as other:
        assert one.peer_id != other.peer_id


async def test_a_key_file_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Identity.load_or_create(path)
    path.chmod(0o644)
    await check_refused(NodeConfig(identity_path=path), IdentityError, str(path), "chmod 600")


@pytest.mark.parametrize("content", [b"", b"not a key", bytes(68), bytes(5_000)])
async def test_a_key_file_that_holds_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    await check_refused(NodeConfig(identity_path=path), IdentityError, str(path), "move it away")


async def test_a_key_file_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Identity.load_or_create(path)
    raw = bytearray(path.read_bytes())
    raw[10] ^= 1
    path.write_bytes(raw)
    await check_refused(NodeConfig(identity_path=path), IdentityError, str(path), "damaged")


async def test_a_key_file_that_is_a_folder_or_below_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    file = tmp_path / "file"
    file.touch()
    await check_refused(NodeConfig(identity_path=folder), IdentityError, str(folder))
    await check_refused(NodeConfig(identity_path=file / "key"), IdentityError, str(file))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
async def test_a_key_file_that_we_may_not_touch(tmp_path: Path) -> None:
    path = tmp_path / "locked" / "key"
    path.parent.mkdir()
    path.parent.chmod(0)
    try:
        await check_refused(NodeConfig(identity_path=path), IdentityError, str(path))
    finally:
        path.parent.chmod(0o700)


# Leaving


def test_nothing_is_left_when_the_block_is_left() -> None:
    process = psutil.Process()

    async def live() -> None:
        async with open_node() as alice, open_node() as bob:
            bob.serve(PROTOCOL, echo)
            await alice.connect_address(bob.addresses[0])
            stream = await alice.open_stream(bob.peer_id, PROTOCOL)
            await stream.send_all(b"hello")
            assert await stream.receive_exactly(5) == b"hello"
            assert await alice.offload(sum, [1, 2]) == 3
            with pytest.raises(UnreachableError):
                await alice.connect(Identity.generate().peer_id, ["/ip4/127.0.0.1/tcp/1"])
        # The main task, its init task, and trio's own.
        assert trio.lowlevel.current_statistics().tasks_living <= 3

    trio.run(live)
    descriptors, threads = process.num_fds(), set(threading.enumerate())
    trio.run(live)
    assert process.num_fds() == descriptors
    assert process.net_connections() == []
    # trio keeps idle worker threads for some seconds; they end by themselves and hold nothing up.
    assert all(
        thread.daemon and "Trio" in thread.name for thread in set(threading.enumerate()) - threads
    )


def test_an_error_in_the_block_comes_out_bare_and_leaves_nothing() -> None:
    process = psutil.Process()
    before = process.net_connections()

    async def fail() -> None:
        async with open_node() as alice, open_node() as bob:
            await alice.connect_address(bob.addresses[0])
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        trio.run(fail)
    assert process.net_connections() == before


def test_a_cancelled_block_leaves_nothing() -> None:
    process = psutil.Process()
    before = process.net_connections()

    async def live() -> None:
        async with open_node() as alice, open_node() as bob:
            await alice.connect_address(bob.addresses[0])
            await trio.sleep_forever()

    async def cancel() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()

    trio.run(cancel)
    assert process.net_connections() == before


async def test_offloaded_work_is_never_abandoned() -> None:
    async with open_node(NodeConfig(client_mode=True)) as node:
        began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            may_end.wait()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.offload, work)
            while not began.is_set():
                await trio.testing.wait_all_tasks_blocked(0.001)
            nursery.cancel_scope.cancel()
            may_end.set()
        assert ended.is_set()
