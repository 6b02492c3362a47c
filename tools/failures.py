"""Each known error in one sentence, with what to do next and the exit code."""

from __future__ import annotations

from dataclasses import dataclass

WELL = 0
ILL = 1
MISUSED = 2


class CommandError(Exception):
    """A command cannot do what was asked; said in words that a user can act on."""

    def __init__(self, sentence: str, *, next_step: str, exit_code: int = ILL) -> None:
        super().__init__(sentence)
        self.next_step = next_step
        self.exit_code = exit_code


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What a command says when it failed."""

    sentence: str
    next_step: str
    exit_code: int = ILL


def explain(error: BaseException) -> Failure | None:
    """The words for a known error; None for one that nobody foresaw, which is a bug of ours."""
    if isinstance(error, CommandError):
        return Failure(sentence=str(error), next_step=error.next_step, exit_code=error.exit_code)
    if isinstance(error, BaseExceptionGroup):
        known = [failure for part in error.exceptions if (failure := explain(part)) is not None]
        return known[0] if len(known) == len(error.exceptions) else None
    # Only layers that are loaded can have raised it; loading PyTorch to say so would be slow.
    layer = type(error).__module__.partition(".")[0]
    words = {"p2p": _explain_p2p, "averaging": _explain_averaging, "training": _explain_training}
    return words[layer](error) if layer in words else None


def _explain_p2p(error: BaseException) -> Failure | None:
    import p2p

    if isinstance(error, p2p.AddressInvalid):
        return Failure(
            sentence=str(error),
            next_step="An address looks like /ip4/203.0.113.5/tcp/31337/p2p/12D3KooW…; "
            "`manyhands node` prints its own.",
            exit_code=MISUSED,
        )
    if isinstance(error, p2p.UnreachableError):
        return Failure(sentence=_unreachable(error), next_step=_unreachable_advice(error))
    if isinstance(error, p2p.ListenError):
        return Failure(
            sentence=str(error),
            next_step="Give another address with --listen; port 0 takes a free one, as in "
            "/ip4/0.0.0.0/tcp/0.",
        )
    if isinstance(error, p2p.IdentityError):
        return Failure(sentence=str(error), next_step="Then run the same command again.")
    if isinstance(error, p2p.AccessError):
        return Failure(
            sentence=str(error),
            next_step="`manyhands access --help` says how keys, tokens and deny lists are made.",
        )
    if isinstance(error, p2p.P2PError):
        return Failure(
            sentence=f"The network failed: {error}",
            next_step="Check that the other peers run, and run the same command again.",
        )
    return None


def _unreachable(error: BaseException) -> str:
    """All paths that were tried, each with its cause."""
    import p2p

    assert isinstance(error, p2p.UnreachableError)
    whom = f"Peer {error.peer_id}" if error.peer_id else "No initial peer"
    verb = "could not be reached" if error.peer_id else "could be reached"
    if not error.attempts:
        return f"{whom} {verb}: no address of it is known"
    tried = "; ".join(f"{attempt.address}: {attempt.cause}" for attempt in error.attempts)
    return f"{whom} {verb}. Tried {tried}"


def _unreachable_advice(error: BaseException) -> str:
    if "impostor" in str(error):
        return (
            "Somebody else answers there, or the node has a new identity: ask its owner for the "
            "line that `manyhands node` prints now."
        )
    if any(word in str(error) for word in ("swarm key", "token", "does not want us")):
        return (
            "The swarm may be private: ask its operator for its key or a token, and name them "
            "with --private."
        )
    return (
        "Check that the node runs (`manyhands node` prints its address), that the address and "
        "port are right, and that no firewall stands between."
    )


def _explain_averaging(error: BaseException) -> Failure | None:
    import averaging

    if isinstance(error, averaging.AveragingError):
        return Failure(
            sentence=f"A round of averaging failed: {error}",
            next_step="Look with `manyhands peers` who is there, and run the same command again.",
        )
    return None


def _explain_training(error: BaseException) -> Failure | None:
    from training.errors import (
        Diverged,
        PrivacyBudgetExhausted,
        RecipeError,
        SplitFailed,
        TrainingError,
    )

    if isinstance(error, RecipeError):
        return Failure(
            sentence=f"The recipe cannot be used: {error}",
            next_step="Correct it and run again; docs/guides/recipes.md has all keys.",
            exit_code=MISUSED,
        )
    if isinstance(error, Diverged):
        return Failure(
            sentence=str(error),
            next_step="The event log (--events) names each micro-batch that was dropped.",
        )
    if isinstance(error, PrivacyBudgetExhausted):
        return Failure(
            sentence=str(error),
            next_step="docs/guides/differential-privacy.md says what --checkpoint-dir has kept.",
        )
    if isinstance(error, SplitFailed):
        return Failure(
            sentence=str(error),
            next_step="See that `manyhands train … --role server` runs with the same recipe.",
        )
    if isinstance(error, TrainingError):
        return Failure(
            sentence=str(error),
            next_step="`manyhands peers` shows who takes part in the run and where they are.",
        )
    return None
