"""simulated: write a test as one coroutine over a simulated network."""

from collections.abc import Awaitable, Callable

from p2p.testing import SimNetwork, run_sim


def simulated(main: Callable[[SimNetwork], Awaitable[None]]) -> Callable[[], None]:
    """Make ``async def test_…(network)`` a test that runs on a simulated network."""

    def test() -> None:
        run_sim(1, main)

    # Not functools.wraps: pytest would look for a fixture called network.
    test.__name__ = getattr(main, "__name__", "main")
    test.__doc__ = main.__doc__
    return test
