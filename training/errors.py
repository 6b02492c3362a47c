"""The errors of the training layer: what went wrong with a run, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2p import PeerId


class TrainingError(Exception):
    """Root of all errors that the training layer raises on purpose."""


class RecipeError(TrainingError):
    """A recipe cannot be used; the message names the file, the key and what is allowed there."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be read or written; the message names the file and what to do."""


class SpecDiffers(TrainingError):
    """Another model is trained under this run's name; choose another name, or the same model.

    Args:
        run: the name of the run.
        peer_id: one peer whose model differs.
        theirs: the hash of its names, shapes, kinds of numbers, optimizer, global batch, rule for
            the learning rate, codec, and whether updates are delayed.
        ours: the same of ours.
    """

    def __init__(self, run: str, peer_id: PeerId, *, theirs: bytes, ours: bytes) -> None:
        # Here, since recipes can be used where the network layer is not installed.
        from p2p import short

        self.run = run
        self.peer_id = peer_id
        self.theirs = theirs
        self.ours = ours
        super().__init__(
            f"peer {short(peer_id)} trains a different model, optimizer, global batch, "
            f"lr_rule, codec or delayed under the run name {run!r} (its spec hash is "
            f"{theirs.hex()[:12]}, ours is {ours.hex()[:12]}); "
            "use another run name, or the same recipe as the others"
        )


class CatchUpFailed(TrainingError):
    """The swarm is ahead and its state could not be had; see the cause, then try again.

    Args:
        tries: how often it was tried.
        cause: why the last try failed.
    """

    def __init__(self, tries: int, cause: str) -> None:
        self.tries = tries
        super().__init__(
            f"the state of the swarm could not be downloaded in {tries} tries ({cause}); "
            "check the connection to the peers named, or join again later"
        )


class SwarmStuck(TrainingError):
    """Round after round failed though peers are there; the cause of the last one is named.

    Args:
        failures: how many rounds failed one after another.
        cause: why the last one failed.
    """

    def __init__(self, failures: int, cause: str) -> None:
        self.failures = failures
        super().__init__(
            f"{failures} rounds failed one after another ({cause}); what was accumulated is "
            "kept: call step() again when the network is well, or leave and join again"
        )


class Diverged(TrainingError):
    """No micro-batch gives a finite gradient any more; lower the learning rate, or warm up longer.

    Args:
        skipped: how many micro-batches were skipped one after another.
        cause: what was wrong with the last of them.
    """

    def __init__(self, skipped: int, cause: str) -> None:
        self.skipped = skipped
        super().__init__(
            f"{skipped} micro-batches one after another gave no gradient that can be used "
            f"({cause}); lower the learning rate, clip the gradient (clip_norm), or look at the "
            "data; checkpoints from before are unharmed"
        )


class RankFailed(TrainingError):
    """Rank 0 of this peer could not do what all ranks asked for; it raised the cause itself.

    Args:
        cause: the error's kind and words.
    """

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(
            f"rank 0 of this peer failed ({cause}); see its log, and stop or go on as it does"
        )
