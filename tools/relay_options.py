"""The options of a relay's limits, in the units of people."""

from __future__ import annotations

from typing import Annotated

import typer

Relay = Annotated[
    bool, typer.Option("--relay", help="Pass bytes on between peers that cannot meet.")
]
Peers = Annotated[int | None, typer.Option(min=1, help="Peers that may hold a reservation.")]
Circuits = Annotated[int | None, typer.Option(min=1, help="Circuits at once, in all.")]
Rate = Annotated[float | None, typer.Option(min=0.01, help="MB/s that all circuits carry.")]
Hourly = Annotated[float | None, typer.Option(min=0.001, help="GB that all carry in an hour.")]
CircuitRate = Annotated[float | None, typer.Option(min=0.01, help="MB/s that one carries.")]
CircuitSize = Annotated[float | None, typer.Option(min=0.1, help="MB that one carries each way.")]
CircuitMinutes = Annotated[
    float | None, typer.Option(min=0.1, help="How long one lasts, idle or not.")
]
