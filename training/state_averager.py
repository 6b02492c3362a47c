"""Averagers for whole states, opened when the first state is to be averaged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import trio

from averaging import Averager, AveragerConfig, TensorSpec, open_averager
from p2p import Dht, Node


class StateAverager:
    """Keeps one averager open, for states of one kind.

    What an optimizer keeps is known only once it has stepped, so the averager cannot be opened with
    the session; and it stays open after a round, so that latecomers can ask it for the result.
    """

    def __init__(
        self,
        node: Node,
        dht: Dht | None,
        group_name: str,
        config: AveragerConfig,
        nursery: trio.Nursery,
    ) -> None:
        self._node = node
        self._dht = dht
        self._group_name = group_name
        # States are averaged as they are, whatever the gradients are squeezed into.
        self._config = replace(config, wire_dtype=None, codec=None, downlink_codec=None)
        self._nursery = nursery
        self._open: tuple[Averager, trio.Event, trio.Event] | None = None

    async def averager(self, spec: TensorSpec) -> Averager:
        """The averager for states like this; one for other states is closed."""
        if self._open is not None:
            averager, leave, left = self._open
            if averager.spec == spec:
                return averager
            leave.set()
            await left.wait()
            self._open = None
        leave, left = trio.Event(), trio.Event()
        averager = await self._nursery.start(self._hold, spec, leave, left)
        self._open = (averager, leave, left)
        return averager

    async def _hold(
        self,
        spec: TensorSpec,
        leave: trio.Event,
        left: trio.Event,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            async with open_averager(
                self._node, self._group_name, spec, self._config, dht=self._dht
            ) as averager:
                task_status.started(averager)
                await leave.wait()
        finally:
            left.set()
