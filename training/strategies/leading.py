"""LeaderExchanger: exchanges of Leader SGD, in which each peer asks, looks, and follows by itself.

No round is held and nobody waits for anybody: when its own local steps say so, a peer asks its
group how good everyone is, downloads the parameters of the best from that peer, as a newcomer
downloads a state, computes their loss on its own mini-batch, and is pulled there if that is
credible.

Source: as for training.strategies.leader.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from averaging import Manifest, RoundId, Snapshot, StateTable, StateUnavailable, TensorSpec
from p2p import Dht, MessageInvalid, Node, PeerId, Portal, short
from training.advice import OnCaller
from training.config import SwarmConfig
from training.model_state import Array, ModelState
from training.progress import BatchView, FixedBatch, PeerProgress, Position
from training.session_plan import SessionPlan
from training.state_metadata import decode_metadata_untrusted, encode_metadata
from training.step_report import StepReport
from training.strategies.exchanger import Evaluate, Place
from training.strategies.flat import FlatParameters
from training.strategies.leader import LeaderSGD, LeaderTactic
from training.strategies.leader_session import LeaderSession, open_leader_session
from training.strategies.strategy import Exchange

logger = logging.getLogger(__name__)

# Who is found to lie costs a download; after so many the peer goes on alone until the next time.
_CANDIDATES_MAX = 3
_PARAMETERS, _FROZEN, _BUFFERS = "parameters", "frozen", "buffers"
_SAMPLES_MAX = 2**53


class LeaderExchanger:
    """An Exchanger; see there."""

    def __init__(
        self,
        strategy: LeaderSGD,
        model: nn.Module,
        state: ModelState,
        place: Place,
    ) -> None:
        tensors = ModelTensors(model, state)
        self._tensors = tensors
        parameters_E = tensors.trained.read()
        self.tactic: LeaderTactic = strategy.begin(parameters_E, me=place.me)
        self._me = place.me
        self._call = place.call
        self._session: LeaderSession
        self._position = Position(RoundId(0))
        self._steps = 0
        self._samples = 0
        self._snapshot: tuple[Position, Snapshot] | None = None
        identity = f"{place.kind}\0{strategy!r}\0{tensors.shapes}"
        spec = TensorSpec.of({_PARAMETERS: parameters_E})
        self._plan = SessionPlan(
            run=place.run,
            spec=spec,
            spec_hash=hashlib.sha256(identity.encode() + spec.hash).digest(),
            schedule=FixedBatch(strategy.every),
            position=self._position,
            check_state=self._complaint,
            take_snapshot=self._take_snapshot,
        )

    def open(
        self,
        portal: Portal,
        network: tuple[Node, Dht | None],
        config: SwarmConfig,
        on_caller: OnCaller,
    ) -> None:
        """Enter the run; raises SpecDiffers."""
        self._session = portal.enter(open_leader_session(*network, self._plan, config, on_caller))
        self._call(self._session.introduce)

    @property
    def global_step(self) -> int:
        """Exchanges so far."""
        return self._position.step

    def check(self, loss: float | None, evaluate: Evaluate | None) -> None:
        """Both are needed; raises ValueError."""
        if loss is None or evaluate is None:
            raise ValueError(
                "Leader SGD needs step(samples=…, loss=…, evaluate=…): the micro-batch's loss, and "
                "a function that computes it anew with the model as it is then"
            )

    def on_gradient(self) -> None:
        """They stay as they are."""

    def on_local_step(self, *, samples: int, loss: float | None) -> None:
        """The parameters have just taken a step."""
        self._steps += 1
        self._samples += samples
        self.tactic.on_local_step(samples=samples, loss=loss)
        if self.tactic.adjusts:
            self._tensors.trained.write(self.tactic.adjust(self._tensors.trained.read()))

    def advance(
        self, samples_per_s: float, period_s: float, evaluate: Evaluate | None
    ) -> StepReport:
        """Tell how far we are; follow the best when it is time."""
        assert evaluate is not None, "check() asks for it"
        self._tell(samples_per_s, period_s)
        due = self.tactic.due(self._steps)
        if not due:
            return self.report()
        failures = [self._exchange(exchange, evaluate) for exchange in due]
        self._position = self._after(self._position, self._samples)
        self.tactic.on_interval(self.global_step)
        report = self.report(stepped=True, failure="; ".join(filter(None, failures)))
        self._steps = self._samples = 0
        self._tell(samples_per_s, period_s)
        return report

    def synchronize(self, evaluate: Evaluate | None = None) -> bool:
        """A newcomer begins where the best is, if that is better than its own; True if it does.

        Without a mini-batch to judge by nothing happens.
        """
        if evaluate is None or self._position.step or self._steps:
            return False
        view = self._tell(0.0, 0.0)
        others = [peer.peer_id for peer in view.peers if not peer.is_me and peer.step > 0]
        arrays, _ = self._choose(others, evaluate)
        if arrays is None:
            return False
        # To be credible is enough for a pull. Who comes with something good does not give it up.
        measured = self._tensors.measure(arrays, evaluate)
        if not measured < self._tensors.measure(self._tensors.read(), evaluate):
            return False
        self._tensors.write(arrays)
        return True

    def peers(self) -> tuple[PeerProgress, ...]:
        """All live peers that train the same."""
        view: BatchView = self._call(self._session.view)
        return view.peers

    def state_hash(self) -> str:
        """Of this peer's trained parameters: nothing is held alike."""
        return hashlib.sha256(self._tensors.trained.read().data).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """How far we are."""
        return {"step": self._position.step, "samples": self._position.samples}

    def load_state_dict(self, saved: dict[str, Any] | None) -> None:
        """Go on from there, or begin anew, with the model as it is."""
        step, samples = (saved["step"], saved["samples"]) if saved else (0, 0)
        self._position = Position(RoundId(step), step, samples)
        self._steps = self._samples = 0
        self.tactic.on_interval(step)

    def report(
        self, *, stepped: bool = False, caught_up: bool = False, failure: str = ""
    ) -> StepReport:
        """What step() returns."""
        return StepReport(
            global_step=self.global_step,
            stepped=stepped,
            samples=self._samples,
            target=self.tactic.interval * self.tactic.trainers,
            caught_up=caught_up,
            failure=failure,
        )

    # --- helpers ---

    def _tell(self, samples_per_s: float, period_s: float) -> BatchView:
        view: BatchView = self._call(
            self._session.tell,
            self._position,
            self._steps,
            self.tactic.claim,
            samples_per_s,
            period_s,
        )
        self.tactic.on_peers([str(peer.peer_id) for peer in view.peers])
        return view

    def _exchange(self, exchange: Exchange, evaluate: Evaluate) -> str:
        """Follow the best of those asked; returns why not, where somebody was better."""
        others = [PeerId(m) for m in self.tactic.members(exchange) if m != self._me]
        arrays, failure = self._choose(others, evaluate)
        if arrays is not None:
            parameters_E = self._tensors.trained.read()
            pulled_E = self.tactic.apply(exchange, arrays[_PARAMETERS], parameters_E)
            self._tensors.trained.write(pulled_E)
        return failure

    def _choose(
        self, others: Sequence[PeerId], evaluate: Evaluate
    ) -> tuple[Mapping[str, Array] | None, str]:
        """The tensors of the best that is credible; else None, and why nobody was."""
        claims: dict[str, float] = self._call(self._session.claims, tuple(others))
        refused: list[str] = []
        candidates = self.tactic.candidates(claims)[:_CANDIDATES_MAX]
        own = self._tensors.measure(self._tensors.read(), evaluate) if candidates else math.inf
        for name in candidates:
            try:
                arrays: Mapping[str, Array] = self._call(self._session.download, PeerId(name))
            except StateUnavailable as exc:
                refused.append(f"{short(PeerId(name))} cannot be followed: {exc}")
                continue
            measured = self._tensors.measure(arrays, evaluate)
            if self.tactic.is_credible(claims[name], measured=measured, own=own):
                return arrays, ""
            refused.append(
                f"{short(PeerId(name))} claims a loss of {claims[name]:.3g}; here it is "
                f"{measured:.3g}, and ours {own:.3g}"
            )
            logger.warning("leader_not_credible %s", refused[-1])
        return None, "; ".join(refused)

    @staticmethod
    def _after(position: Position, samples: int) -> Position:
        step = position.step + 1
        return Position(RoundId(step), step, min(position.samples + samples, _SAMPLES_MAX))

    def _take_snapshot(self) -> Snapshot:
        """Our tensors for those who follow, copied once in each interval."""
        if self._snapshot is None or self._snapshot[0] != self._position:
            metadata = encode_metadata(self._position, equalized=False, scalars=())
            snapshot = Snapshot(self._position.round.number, metadata, self._tensors.read())
            self._snapshot = (self._position, snapshot)
        return self._snapshot[1]

    def _complaint(self, manifest: Manifest) -> str | None:
        """Why offered tensors are not those of this model."""
        try:
            decode_metadata_untrusted(manifest.metadata, version=manifest.version)
        except MessageInvalid as exc:
            return str(exc)
        same = manifest.table == self._tensors.table
        return None if same else "has other tensors than this model"


class ModelTensors:
    """All of a model that is floating point: trained and frozen parameters, and buffers."""

    def __init__(self, model: nn.Module, state: ModelState) -> None:
        self.trained = FlatParameters(state.trained)
        trained = {id(parameter) for parameter in state.trained.values()}
        frozen = {n: p for n, p in sorted(model.named_parameters()) if id(p) not in trained}
        buffers = {n: b for n, b in sorted(model.named_buffers()) if b.is_floating_point()}
        pieces = {
            _PARAMETERS: self.trained,
            _FROZEN: FlatParameters(frozen),
            _BUFFERS: FlatParameters(buffers),
        }
        self._pieces = {name: piece for name, piece in pieces.items() if piece.elements}
        self.shapes = {name: piece.shapes for name, piece in self._pieces.items()}
        self.table = StateTable.of(self.read())
        """What a download must look like."""

    def read(self) -> dict[str, Array]:
        """Copies."""
        return {name: piece.read() for name, piece in self._pieces.items()}

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite in place."""
        for name, piece in self._pieces.items():
            piece.write(arrays[name])

    def measure(self, arrays: Mapping[str, Array], evaluate: Evaluate) -> float:
        """The loss that these have on the micro-batch at hand; the model stays as it is."""
        before = self.read()
        try:
            self.write(arrays)
            with torch.no_grad():
                return float(evaluate())
        finally:
            self.write(before)
