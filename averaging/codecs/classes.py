"""The classes of compressors, and what membership in one says about the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """The classes that a compressor C is in, for vectors x of one size; None: not in it.

    Source: Beznosikov et al., "On Biased Compression for Distributed Learning", section 2.
    """

    unbiased: float | None = None
    """ζ of U(ζ): E C(x) = x and E‖C(x)‖² ≤ ζ‖x‖²."""
    b1: tuple[float, float] | None = None
    """α, β of B1: α‖x‖² ≤ E‖C(x)‖² ≤ β E⟨C(x), x⟩."""
    b2: tuple[float, float] | None = None
    """γ, β of B2: max(γ‖x‖², E‖C(x)‖² / β) ≤ E⟨C(x), x⟩."""
    b3: float | None = None
    """δ of B3: E‖C(x) − x‖² ≤ (1 − 1/δ)‖x‖²."""
