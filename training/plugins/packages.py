"""What is said when the package that a plug-in plugs into is not installed."""

from __future__ import annotations

from training.errors import TrainingError


class PackageMissing(TrainingError, ImportError):
    """A package is not installed; install the extra that the message names.

    Args:
        package: what could not be imported.
        extra: the extra of manyhands that brings it.
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'manyhands[{extra}]'"
        )
        self.package = package
        self.extra = extra
