"""The service where no router is asked; with real routers it is tested in tests/netlab."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from p2p.nat.portmap import PortMapping, open_port_mapper
from p2p.nat.portmap.jobs import Network


class Networks:
    """Where the machine is; it may move."""

    def __init__(self, network: Network | None) -> None:
        self.network = network
        self.looked = trio.Event()

    async def find(self) -> Network | None:
        """What the system would tell."""
        self.looked.set()
        return self.network


async def test_without_a_gateway_it_says_so_and_ends_at_once() -> None:
    changes: list[PortMapping | None] = []
    networks = Networks(None)
    with trio.fail_after(5):
        async with open_port_mapper(
            31_337, on_change=changes.append, find_network=networks.find
        ) as mapper:
            assert mapper.mapping is None
            assert "no default IPv4 gateway" in (mapper.problem or "")
    assert changes == []


async def test_a_change_of_the_network_is_looked_at_at_once() -> None:
    networks = Networks(None)
    async with open_port_mapper(
        31_337, on_change=lambda mapping: None, find_network=networks.find
    ) as mapper:
        networks.network, networks.looked = Network("5.6.7.1", "5.6.7.2"), trio.Event()
        mapper.on_network_changed()
        with trio.fail_after(5):
            await networks.looked.wait()
            await trio.testing.wait_all_tasks_blocked()
        assert "5.6.7.2 is public" in (mapper.problem or "")


async def test_nothing_is_said_where_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    networks = Networks(Network("5.6.7.1", "5.6.7.2"))
    async with open_port_mapper(
        31_337, on_change=lambda mapping: None, find_network=networks.find
    ) as mapper:
        mapper.check_observed("5.6.7.99")
        await trio.testing.wait_all_tasks_blocked()
        assert mapper.mapping is None
    assert [record for record in caplog.records if record.name.startswith("p2p.nat")] == []
