"""Tokens and deny lists: what lets a peer in, and every way in which it does not."""

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import AccessError, Identity, PeerId
from p2p.access import (
    SLACK_S,
    DenyList,
    Token,
    deny_list_text,
    is_deny_list_of,
    read_deny_list,
    read_token,
    sign_deny_list,
    sign_token,
    token_refusal,
    token_text,
)

AUTHORITY, ALICE, EVE = (Identity.generate(random.Random(seed)) for seed in range(3))
NOW_S = 1_000_000.0


def token_of(peer_id: PeerId = ALICE.peer_id, authority: Identity = AUTHORITY) -> Token:
    return sign_token(
        authority,
        run="run",
        peer_id=peer_id,
        role="trainer",
        not_before_s=NOW_S,
        expires_at_s=NOW_S + 3_600,
    )


def refusal(token: Token, *, run: str = "run", now_s: float = NOW_S) -> str | None:
    return token_refusal(
        token, authority=AUTHORITY.peer_id, run=run, peer_id=ALICE.peer_id, now_s=now_s
    )


def test_a_good_token_lets_its_peer_in() -> None:
    assert refusal(token_of()) is None


def test_what_does_not_let_a_peer_in_says_why() -> None:
    assert "not for" in (refusal(token_of(EVE.peer_id)) or "")
    assert "for the run" in (refusal(token_of(), run="other") or "")
    assert "not signed" in (refusal(token_of(authority=EVE)) or "")


def test_clocks_may_be_apart_but_not_by_more() -> None:
    token = token_of()
    assert refusal(token, now_s=NOW_S - SLACK_S + 1) is None
    assert "good only in" in (refusal(token, now_s=NOW_S - SLACK_S - 1) or "")
    assert refusal(token, now_s=NOW_S + 3_600 + SLACK_S - 1) is None
    assert "has ended" in (refusal(token, now_s=NOW_S + 3_600 + SLACK_S + 1) or "")


@given(
    st.sampled_from(["run", "peer_id", "role", "not_before_s", "expires_at_s", "signature"]),
    st.integers(0, 63),
)
def test_nothing_of_a_token_can_be_changed(name: str, place: int) -> None:
    token = token_of()
    value = getattr(token, name)
    if isinstance(value, bytes):
        changed: object = value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
    else:
        changed = value + 1 if isinstance(value, float) else f"{value}x"
    forged = msgspec.structs.replace(token, **{name: changed})
    assert "not signed" in (refusal(forged) or "")


def test_a_signature_of_one_kind_is_none_of_the_other() -> None:
    listed = sign_deny_list(AUTHORITY, number=3, peers=[EVE.peer_id])
    assert is_deny_list_of(listed, AUTHORITY.peer_id)
    assert not is_deny_list_of(listed, EVE.peer_id)
    assert not is_deny_list_of(msgspec.structs.replace(listed, number=4), AUTHORITY.peer_id)
    borrowed = DenyList(AUTHORITY.peer_id, 3, [], token_of().signature)
    assert not is_deny_list_of(borrowed, AUTHORITY.peer_id)


def test_files_hold_one_line_and_what_they_lack_is_said(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(token_text(token_of()) + "\n")
    assert read_token(path) == token_of()
    listed = sign_deny_list(AUTHORITY, number=3, peers=[EVE.peer_id])
    (tmp_path / "list").write_text(deny_list_text(listed))
    assert read_deny_list(tmp_path / "list") == listed
    for text, cause in (
        ("", "one line"),
        ("manyhands-token:%%%", "damaged"),
        ("manyhands-token:AAAA", "damaged"),
        (deny_list_text(listed), "one line"),
    ):
        path.write_text(text)
        with pytest.raises(AccessError, match=cause):
            read_token(path)
    with pytest.raises(AccessError, match="cannot read"):
        read_token(tmp_path / "none")
