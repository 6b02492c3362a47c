"""Replica: what a peer holds in a run whose peers average something, and how an exchange moves it.

Everything here is the same for a trainer with PyTorch and for a simulated one; what crosses the
network is the session's, whose rounds this uses as follows.

    a round's tensors    `offer`: the tactic's vector; `buffers`: all float buffers, as they are
    a round's samples    in progress records the local steps since the last exchange, since these
                         decide when one is due; as a weight what the tactic says
    a global step        an exchange
    the state            what the tactic shares, the buffers' last mean, and the frozen parameters:
                         the same bits at all peers, so a newcomer downloads from several at once
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from averaging import Manifest, RoundId, RoundReport, Snapshot, StateTable, TensorSpec
from p2p import MessageInvalid, PeerId
from training.advice import RoundResult
from training.delivered import known_contributors
from training.follow import CaughtUp
from training.model_state import Array, ModelState
from training.privacy.clients import PrivateClients, PrivateTactic
from training.progress import BatchMemory, BatchView, Position, StepNorms
from training.session_plan import SessionPlan
from training.state_metadata import decode_metadata_untrusted, encode_metadata
from training.strategies.flat import FlatParameters
from training.strategies.secure_offers import SecureOffers
from training.strategies.strategy import Exchange, Strategy, Tactic, Vector
from training.strategies.streaming import StreamingDiLoCo

_OFFER, _BUFFERS, _FROZEN, _SHARED = "offer", "buffers", "frozen", "shared/"


class Replica:
    """One peer's parameters, its tactic, and where in the run they are."""

    def __init__(
        self,
        strategy: Strategy,
        model: nn.Module,
        state: ModelState,
        *,
        me: PeerId,
        secure: SecureOffers | None = None,
    ) -> None:
        self._strategy = strategy
        self._secure = secure
        self._me = me
        self._trained = FlatParameters(state.trained)
        trained = {id(parameter) for parameter in state.trained.values()}
        self._frozen = FlatParameters(
            {n: p for n, p in sorted(model.named_parameters()) if id(p) not in trained}
        )
        self._buffers = FlatParameters(
            {n: b for n, b in sorted(model.named_buffers()) if b.is_floating_point()}
        )
        if isinstance(strategy, PrivateClients) and self._buffers.elements:
            raise ValueError(
                "the model has buffers such as the running means of batch norm, which exchanges "
                "average as they are, without noise; private clients need a model without, with "
                "nn.GroupNorm for example"
            )
        parameters_E = self._trained.read()
        self.tactic: Tactic = strategy.begin(parameters_E, me=me)
        self.schedule = StepSchedule(self.tactic)
        self.tactic.on_peers((me,))
        self._buffers_mean = self._buffers.read()
        self._snapshot: tuple[Position, Snapshot] | None = None
        self.steps = 0
        """Local steps of ours that make the next exchange come nearer."""
        self.steps_since_offer = 0
        self.position = Position(RoundId(0, self._digest()))

    def plan(self, run: str, kind: str) -> SessionPlan:
        """What a session needs to know; `kind` is what else all peers must have alike."""
        identity = f"{kind}\0{self._strategy!r}\0{self._trained.shapes}\0{self._frozen.shapes}"
        if self._secure is not None:
            identity += f"\0{self._secure.terms}"
        spec = TensorSpec.of(self._empty())
        return SessionPlan(
            run=run,
            spec=spec,
            spec_hash=hashlib.sha256(identity.encode() + spec.hash).digest(),
            schedule=self.schedule,
            position=self.position,
            check_state=self._complaint,
            secure=self._secure.config if self._secure is not None else None,
            take_snapshot=self.take_snapshot,
            vectors=self._strategy.fragments if isinstance(self._strategy, StreamingDiLoCo) else 1,
            # Buffers are statistics, and few.
            compressed=(_OFFER,),
        )

    # --- between exchanges ---

    def on_gradient(self) -> None:
        """The parameters' gradients are there; a tactic may change them."""
        if self.tactic.corrects:
            gradient_E = self._trained.read_gradients()
            corrected_E = self.tactic.on_gradient(gradient_E, self._trained.read())
            self._trained.write_gradients(corrected_E)

    def on_local_step(self, *, samples: int, loss: float | None) -> None:
        """The parameters have just taken a step."""
        self.tactic.on_local_step(samples=samples, loss=loss)
        self.steps += 1
        self.steps_since_offer += 1
        if self.tactic.adjusts:
            self._trained.write(self.tactic.adjust(self._trained.read()))

    # --- an exchange ---

    def too_few(self) -> str | None:
        """Why no exchange is held among those who train now; None if one may be."""
        if self._secure is not None:
            return self._secure.too_few(self.tactic.trainers)
        return self.tactic.too_few() if isinstance(self.tactic, PrivateTactic) else None

    def offer(self) -> tuple[dict[str, Array], int]:
        """What goes into the round, which overwrites it with the means; and its weight.

        Raises:
            PrivacyBudgetExhausted: private clients cannot pay for it.
            UpdateTooLarge: a value does not fit into a secure sum.
        """
        self.steps_since_offer = 0
        offer = self.tactic.offer(Exchange.MEAN, self._trained.read())
        tensors = self._empty() | {_OFFER: offer.vector_O}
        if _BUFFERS in tensors:
            tensors[_BUFFERS] = self._buffers.read()
        weight = offer.weight
        if self._secure is not None:
            weight = self._secure.weight_of(tensors, weight)
        return tensors, round(weight)

    def apply(self, result: RoundResult, means: Mapping[str, Array]) -> None:
        """The round succeeded: go on from what came of it."""
        self._on_shown(result.report)
        if result.accepted:
            self._trained.write(self._applied(means, self._trained.read()))
            self._buffers.write(self._buffers_mean)
        self._move(result.position)

    def on_skipped(self) -> None:
        """An exchange was due, and nothing was offered: go on, and try after another interval."""
        self.steps = self.steps_since_offer = 0

    def on_failure(self, report: RoundReport) -> bool:
        """There is no result: go on, and exchange what this was about after another interval.

        Returns:
            Whether it was dropped, since it must not be offered again, by itself or with more.
        """
        self._on_shown(report)
        self.steps = self.steps_since_offer
        return report.spent and self.drop()

    def drop(self) -> bool:
        """Forget the local steps since the last exchange: back to what all have in common.

        Returns:
            False where that is not needed: no sums are secure, or each offer has its own noise.
        """
        if self._secure is None or self._secure.noised:
            return False
        self._trained.write(self.tactic.load(self.tactic.shared()))
        self._buffers.write(self._buffers_mean)
        self.steps_since_offer = 0
        self._move(self.position)
        return True

    def take_over(self, caught: CaughtUp) -> None:
        """Go on from the others' state, and from what has happened since it was taken."""
        parameters_E = self._restore(caught.snapshot.arrays, caught.metadata.position)
        for kept in caught.rounds:
            if kept.gradients is not None:
                parameters_E = self._applied(kept.gradients, parameters_E)
            self._move(kept.position)
        self._trained.write(parameters_E)
        self._buffers.write(self._buffers_mean)

    def resume(
        self, arrays: Mapping[str, Array], position: Position, *, steps: int, samples: int
    ) -> None:
        """Go on from a state as held() gave it, and from the model's parameters as they are.

        Args:
            steps, samples: that led from the state to these parameters.

        Raises:
            ValueError: the state is none of this model.
        """
        self._restore(arrays, position)
        self.tactic.on_local_step(samples=samples)
        self.steps = steps

    def _restore(self, arrays: Mapping[str, Array], position: Position) -> Vector:
        """Take over what all hold alike; returns the parameters that a newcomer begins with."""
        complaint = self._different(StateTable.of(arrays))
        if complaint is not None:
            raise ValueError(f"the state {complaint}")
        self.steps_since_offer = 0
        shared = {name.removeprefix(_SHARED): arrays[name] for name in self._shared_names()}
        parameters_E = self.tactic.load(shared)
        if _FROZEN in arrays:
            self._frozen.write(arrays[_FROZEN])
        if _BUFFERS in arrays:
            self._buffers_mean = np.array(arrays[_BUFFERS])
        self._move(position)
        return parameters_E

    def begin_anew(self) -> None:
        """Go on from the model as it is, as a run's first peer does."""
        self.steps_since_offer = 0
        parameters_E = self._trained.read()
        first = self._strategy.begin(parameters_E, me=self._me)
        self._trained.write(self.tactic.load(first.shared()))
        self._buffers_mean = self._buffers.read()
        self._move(Position(RoundId(0, self._digest())))

    def _on_shown(self, report: RoundReport) -> None:
        """A private client's budget has to know with how much noise its offer was seen."""
        count = known_contributors(report)
        if isinstance(self.tactic, PrivateTactic) and count is not None:
            self.tactic.on_contributors(count)

    def _applied(self, means: Mapping[str, Array], parameters_E: Vector) -> Vector:
        if _BUFFERS in means:
            self._buffers_mean = np.array(means[_BUFFERS])
        return self.tactic.apply(Exchange.MEAN, means[_OFFER], parameters_E)

    def _move(self, position: Position) -> None:
        self.position = position
        self.steps = self.steps_since_offer
        self.tactic.on_interval(position.step)

    # --- what others download ---

    def held(self) -> dict[str, Array]:
        """All that peers hold alike at a position; copies."""
        arrays: dict[str, Array] = {
            _SHARED + name: values for name, values in self.tactic.shared().items()
        }
        if self._buffers.elements:
            arrays[_BUFFERS] = self._buffers_mean.copy()
        if self._frozen.elements:
            arrays[_FROZEN] = self._frozen.read()
        return arrays

    def take_snapshot(self) -> Snapshot:
        """The state for newcomers, copied once for each position."""
        if self._snapshot is None or self._snapshot[0] != self.position:
            metadata = encode_metadata(self.position, equalized=True, scalars=())
            snapshot = Snapshot(self.position.round.number, metadata, self.held())
            self._snapshot = (self.position, snapshot)
        return self._snapshot[1]

    def state_hash(self) -> str:
        """SHA-256 of all that peers hold alike, in hex."""
        return self._digest().hex()

    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        for name, array in sorted(self.held().items()):
            digest.update(f"{name}\0{array.dtype.name}{array.shape}\0".encode())
            digest.update(array.data)
        return digest.digest()

    def _complaint(self, manifest: Manifest) -> str | None:
        """Why an offered state is not one of this model."""
        try:
            decode_metadata_untrusted(manifest.metadata, version=manifest.version)
        except MessageInvalid as exc:
            return str(exc)
        return self._different(manifest.table)

    def _different(self, table: StateTable) -> str | None:
        own = StateTable.of(self.held())
        return None if table == own else "has other tensors than this model"

    def _shared_names(self) -> list[str]:
        return [_SHARED + name for name in self.tactic.shared()]

    def _empty(self) -> dict[str, Array]:
        """Arrays of the shapes and kinds that a round averages."""
        dtype = self._trained.dtype
        empty: dict[str, Array] = {_OFFER: np.zeros(self.tactic.offer_elements, dtype)}
        if self._buffers.elements:
            empty[_BUFFERS] = np.zeros(self._buffers.elements, self._buffers.dtype)
        return empty


class StepSchedule:
    """How many local steps all peers together take until the next exchange.

    So a fast peer waits for nobody, and a slow one holds nobody up: it has taken fewer steps.
    """

    def __init__(self, tactic: Tactic) -> None:
        self._tactic = tactic
        self._view: Callable[[], BatchView] | None = None

    def watch(self, view: Callable[[], BatchView]) -> None:
        """Look there for who takes part, on trio's thread."""
        self._view = view

    @property
    def uses_norms(self) -> bool:
        """It looks at nothing."""
        return False

    def remember(self, memory: BatchMemory, norms: StepNorms) -> BatchMemory:
        """Nothing."""
        return ()

    def samples_at(self, step: int, memory: BatchMemory = ()) -> int:
        """Local steps, for those who are there now; the same between all exchanges."""
        if self._view is not None:
            peers = self._view().peers
            self._tactic.on_peers([str(p.peer_id) for p in peers if p.holds_state or p.is_me])
        return self._tactic.interval * self._tactic.trainers
