"""Errors of homomorphic sums."""

from averaging.errors import AveragingError


class ExtraMissing(AveragingError):
    """A package that only some users need is not installed; the message says how to install it."""


class SumFailed(AveragingError):
    """A round gave no sum: nothing was decrypted, and the caller's vector is untouched.

    The message says who refused and why. Ask again with the next round number; when the cause is
    another spec or another key, all members and the aggregator must be opened alike.
    """
