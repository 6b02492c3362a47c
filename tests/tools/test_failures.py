"""Known errors become a sentence, a next step and an exit code; unknown ones are called bugs."""

import p2p
from p2p import AddressInvalid, Attempt, IdentityError, ListenError, PeerId, UnreachableError
from tools.failures import ILL, MISUSED, CommandError, explain
from training.errors import Diverged, PrivacyBudgetExhausted, RecipeError, SpecDiffers

ALICE = PeerId("12D3KooWAlice")


def test_each_path_that_was_tried_is_listed() -> None:
    attempts = (Attempt("/ip4/10.0.0.1/tcp/1", "refused"), Attempt("/ip4/10.0.0.2/tcp/1", "silent"))
    failure = explain(UnreachableError(ALICE, attempts))
    assert failure is not None
    assert failure.exit_code == ILL
    for part in (ALICE, "/ip4/10.0.0.1/tcp/1: refused", "/ip4/10.0.0.2/tcp/1: silent"):
        assert part in failure.sentence


def test_errors_of_each_layer_have_an_exit_code() -> None:
    codes = {
        AddressInvalid("x"): MISUSED,
        ListenError("x"): ILL,
        IdentityError("x"): ILL,
        p2p.AccessError("x"): ILL,
        p2p.CallTimeout("x"): ILL,
        RecipeError("x"): MISUSED,
        Diverged(10, "its loss is nan"): ILL,
        PrivacyBudgetExhausted(epsilon=4.0, delta=1e-5, spent=3.9, needed=4.1): ILL,
        SpecDiffers("digits", ALICE, theirs=b"1", ours=b"2"): ILL,
        CommandError("x", next_step="y", exit_code=MISUSED): MISUSED,
    }
    for error, code in codes.items():
        failure = explain(error)
        assert failure is not None, error
        assert (failure.exit_code, bool(failure.next_step)) == (code, True), error


def test_a_group_is_explained_if_all_of_it_is() -> None:
    known, unknown = ListenError("port 1 is in use"), ZeroDivisionError()
    failure = explain(ExceptionGroup("both", [known, known]))
    assert failure is not None
    assert failure.sentence == "port 1 is in use"
    assert explain(ExceptionGroup("both", [known, unknown])) is None
    assert explain(unknown) is None


def test_who_is_kept_out_of_a_private_swarm_is_told_how_to_get_in() -> None:
    attempts = (Attempt("/ip4/10.0.0.1/tcp/1", "the other side hung up on our swarm key"),)
    failure = explain(UnreachableError(ALICE, attempts))
    assert failure is not None
    assert "--private" in failure.next_step
