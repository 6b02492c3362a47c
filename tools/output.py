"""What the command prints: for people on the console, or one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from rich.console import Console


def console(*, as_json: bool = False) -> Console:
    """Where to write for people: stdout, or stderr when stdout belongs to a JSON object."""
    return Console(stderr=as_json, highlight=False, soft_wrap=True)


def print_json(content: Mapping[str, object]) -> None:
    """Write the one object of `--json` as one line on stdout, at once."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
    sys.stdout.flush()
