"""The classes of compressors, and what membership in one says about the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """The classes that a compressor C is in, for vectors x of one size; None: not in it.

    They hold in exact arithmetic, for vectors whose numbers neither overflow nor vanish; float32
    adds relative errors of some 1e-7.

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

    def implied(self) -> Constants:
        """With those of B1 and B2 that follow from the others, where they are not known.

        U(ζ) is in B1(1, ζ) and B2(1, ζ); B3(δ) in B1(1/(4δ²), 2) and B2(1/(2δ), 2); B1(α, β) in
        B2(α/β, β); and B2(γ, β) in B1(γ², β). The last two go by what is known, not by what
        follows.
        """
        b1, b2 = self.b1, self.b2
        if self.b2 is not None and b1 is None:
            b1 = (self.b2[0] ** 2, self.b2[1])
        if self.b1 is not None and b2 is None:
            b2 = (self.b1[0] / self.b1[1], self.b1[1])
        if self.unbiased is not None:
            b1, b2 = b1 or (1.0, self.unbiased), b2 or (1.0, self.unbiased)
        if self.b3 is not None:
            b1, b2 = b1 or (1 / (4 * self.b3**2), 2.0), b2 or (1 / (2 * self.b3), 2.0)
        return Constants(self.unbiased, b1, b2, self.b3)

    def contraction(self) -> tuple[float, float] | None:
        """λ and δ, the smallest that is known, so that λC is in B3(δ); None: nothing is known.

        U(ζ) gives C/ζ in B3(ζ); B1(α, β) gives C/β in B3(β²/α); B2(γ, β) gives C/β in B3(β/γ).
        Error feedback needs such a λ.
        """
        known = []
        if self.b3 is not None:
            known.append((1.0, self.b3))
        if self.unbiased is not None:
            known.append((1 / self.unbiased, self.unbiased))
        if self.b2 is not None:
            known.append((1 / self.b2[1], self.b2[1] / self.b2[0]))
        if self.b1 is not None:
            known.append((1 / self.b1[1], self.b1[1] ** 2 / self.b1[0]))
        return min(known, key=lambda pair: pair[1], default=None)
