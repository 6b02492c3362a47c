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
            the learning rate, codec, and whether updates are delayed; or with a strategy its
            options, and whether sums are secure.
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
            f"lr_rule, codec, delayed, strategy or secure under the run name {run!r} "
            f"(its spec hash is {theirs.hex()[:12]}, ours is {ours.hex()[:12]}); "
            "use another run name, or the same recipe as the others"
        )


class UpdateTooLarge(TrainingError):
    """A value does not fit into a secure sum; nothing was sent, and the parameters are as before.

    Args:
        name: `buffers` for the model's buffers, else it is the update.
        largest: its largest absolute value; NaN or infinity where the model has diverged.
        value_max: the largest that fits.
    """

    def __init__(self, name: str, largest: float, value_max: float) -> None:
        self.largest, self.value_max = largest, value_max
        what = "the model's buffers" if name == "buffers" else "the update"
        super().__init__(
            f"{what} reached {largest:g}, and the secure sum takes values up to {value_max:g}: "
            "raise value_max at all peers, or train with a smaller learning rate or interval"
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


class PrivacyBudgetExhausted(TrainingError):
    """The next step would cost more privacy than is left; the state is that of the last step.

    Args:
        epsilon, delta: the budget.
        spent: of epsilon so far.
        needed: what would be spent after the step.
    """

    def __init__(self, *, epsilon: float, delta: float, spent: float, needed: float) -> None:
        self.spent = spent
        super().__init__(
            f"the privacy budget is spent: epsilon is {spent:.4g} of {epsilon:g} at delta "
            f"{delta:g}, and the next step would bring it to {needed:.4g}; the parameters are "
            "those of the last step: keep them, or begin anew with more noise or a larger budget, "
            "on other examples"
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


class SplitFailed(TrainingError):
    """A session of split learning has ended; the words name the cause and what to do next.

    Args:
        code: one word for programs, such as cut-differs, labels-differ, not-finite or lost.
        cause: what happened; it never holds values of either side.
    """

    def __init__(self, code: str, cause: str) -> None:
        self.code = code
        self.cause = cause
        advice = _SPLIT_ADVICE.get(code)
        super().__init__(f"{cause}; {advice}" if advice else cause)


_SPLIT_ADVICE = {
    "model-differs": "make both sides' parts from the same model and the same cuts",
    "cut-differs": "cut the model at the same layers on both sides, for inputs of the same shape",
    "dtype-differs": "convert the parts on both sides to the same dtype",
    "labels-differ": "one cut sends labels to the server, two cuts keep them with the client: "
    "use the same on both sides",
    "codec-unknown": "choose one that both sides have",
    "window": "choose a smaller window, or raise window_max at the server",
    "busy": "try again later, or raise the limit at the server",
    "taken": "give each party a number of its own, and labels to exactly one of them",
    "unknown-session": "connect again; the steps that the server answered are trained",
    "order": "connect again; this should not happen between peers of one version",
    "not-finite": "lower the learning rate, scale the inputs, or let values travel as float32",
    "failed": "see the server's log for the cause, and compare the shapes of inputs and labels",
    "party-lost": "begin again when all parties are there",
    "no-path": "wait for a direct path, or use a relay that carries more",
    "lost": "check that the server still runs, and connect again",
    "silent": "check that the server still trains (SplitServer.run), or wait longer (answer_s)",
    "no-server": "check the run's name and that the server has entered by the same peers",
    "idle": "end a turn when nothing more is to be done in it",
    "weights": "connect again; the newest weights may be with a client that has left",
}
