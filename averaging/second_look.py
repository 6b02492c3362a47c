"""How soon to look again before somebody is called silent, or is passed over.

What came while we were frozen, or on a busy machine, has yet to be read when a timer fires.
"""

from __future__ import annotations

from typing import Final

SOON_S: Final = 0.05
LATER_S: Final = 0.5


def second_look_s(late_s: float) -> float:
    """After how many seconds to look again.

    Args:
        late_s: how much later than asked for we were woken; who was has more to read.
    """
    return LATER_S if late_s > SOON_S else SOON_S
