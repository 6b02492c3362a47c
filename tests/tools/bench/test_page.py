"""Pages of results: only what was measured is written anew."""

from __future__ import annotations

from tools.bench.page import filled


def test_what_is_not_measured_stays() -> None:
    text = "a\n<!-- measured: one -->\nold\n<!-- end -->\nb\n<!-- measured: two -->\n<!-- end -->\n"
    assert filled(text, {}) == text
    once = filled(text, {"one": "new \\1"})
    assert once == text.replace("old\n", "\nnew \\1\n\n")
    assert filled(once, {"one": "new \\1"}) == once
