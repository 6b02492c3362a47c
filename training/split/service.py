"""The server's end: one stream for each session, and one worker that trains for all of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from p2p import (
    MessageInvalid,
    Node,
    RefusedError,
    RpcCall,
    RpcService,
    StreamBroken,
    open_service_nursery,
    short,
)
from training.split import schema
from training.split.body import BodyTrainer
from training.split.config import SplitServerConfig
from training.split.frames import Frame, send_frame
from training.split.handover import WeightsKeeper, open_weights_keeper
from training.split.lineup import PartiesDiffer
from training.split.parts import Parts
from training.split.party import Group, Party
from training.split.registry import Registry
from training.split.schema import (
    AskLeave,
    AskTurn,
    Bye,
    EndTurn,
    Evaluate,
    Forward,
    FromClient,
    FromServer,
    Hello,
    MayLeave,
    OutputGradient,
    Turn,
    TurnEnded,
    Welcome,
    session_method,
    split_service_name,
)
from training.split.traffic import Traffic
from training.split.turns import Kept, Turns
from training.split.worker import Compute, StepWorker, Work

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a server has done so far."""

    batches: int
    loss: float | None
    """Of the last batch; None where labels stay with the clients."""
    clients: int
    """Who are there."""
    finished: int
    """Clients that said goodbye."""


class SplitService:
    """Lets clients in, gathers what they send, and has it computed; used from trio's thread."""

    def __init__(
        self,
        node: Node,
        parts: Parts,
        trainer: BodyTrainer,
        compute: Compute,
        nursery: trio.Nursery,
        keeper: WeightsKeeper,
        config: SplitServerConfig,
        dtype: str,
    ) -> None:
        self.changed = trio.Event()
        """Set, and replaced, whenever something was done."""
        self.traffic = Traffic()
        """Of all sessions that have ended."""
        self.turns: Turns[Party] = Turns()
        self._node = node
        self._nursery = nursery
        self._keeper = keeper
        self._config = config
        self._registry = Registry(parts, config, dtype)
        self._finished = 0
        self.worker = StepWorker(
            parts,
            trainer,
            compute,
            message_bytes_max=config.message_bytes_max,
            on_failed=self._fail_group,
            on_done=self._tell,
        )

    @property
    def progress(self) -> Progress:
        """What was done so far."""
        return Progress(
            self.worker.batches, self.worker.loss, len(self._registry.parties), self._finished
        )

    @property
    def total_traffic(self) -> Traffic:
        """Of all sessions, those that go on included."""
        total = Traffic()
        for one in (self.traffic, *(party.traffic for party in self._registry.parties)):
            total.add(one)
        return total

    # --- a stream ---

    async def on_session(self, call: RpcCall[FromServer, FromClient]) -> None:
        """Serve one stream of a session."""
        hello = call.request
        if not isinstance(hello, Hello):
            raise MessageInvalid("a session begins with a hello")
        party = self._registry.admit(call.peer_id, hello)
        self._tell()
        try:
            again = party.order.on_resume(hello.completed)
        except MessageInvalid as exc:
            self._end(party, RefusedError("order", str(exc)))
            raise
        if party.stream is not None:
            # The client knows better than we do that its old stream is dead.
            party.stream.cancel()
        party.streams += 1
        with trio.CancelScope() as party.stream:
            scope = party.stream
            order = party.order
            welcome = Welcome(order.received, order.gradients, self._config.client_weights)
            party.outbox.reset([Frame(welcome), *again])
            try:
                async with open_service_nursery() as nursery:
                    nursery.start_soon(self._send_all, party, call)
                    await self._receive_all(party, call)
            except StreamBroken as exc:
                logger.info("split_client_lost peer=%s cause=%s", short(party.peer_id), exc)
            except (MessageInvalid, RefusedError) as exc:
                self._end(party, exc)
                raise
            finally:
                if party.stream is scope:
                    party.stream = None
                    if not party.ended:
                        self._nursery.start_soon(self._forget_later, party, party.streams)
        if party.failure is not None:
            raise party.failure

    async def _send_all(self, party: Party, call: RpcCall[FromServer, FromClient]) -> None:
        # What the client said last may still be read.
        with suppress(StreamBroken):
            while True:
                frame = await party.outbox.next()
                await send_frame(self._node, call, frame, party.traffic)

    async def _receive_all(self, party: Party, call: RpcCall[FromServer, FromClient]) -> None:
        limits = self._config

        def check(message: FromClient, size_bytes: int) -> None:
            limit_bytes = party.payload_limit_bytes(
                message, rows_max=limits.rows_max, message_bytes_max=limits.message_bytes_max
            )
            if size_bytes > limit_bytes or (limit_bytes and not size_bytes):
                raise MessageInvalid(f"{size_bytes} bytes where {limit_bytes} were due")
            if self._registry.held_bytes + size_bytes > limits.held_bytes_max:
                raise RefusedError("busy", "the server holds as many activations as it may")

        def buffer_for(message: FromClient, size_bytes: int) -> memoryview:
            check(message, size_bytes)
            return memoryview(bytearray(size_bytes))

        while (received := await call.receive_into(buffer_for)) is not None:
            message, payload = received
            check(message, len(payload))
            party.traffic.payload_bytes_received += len(payload)
            party.heard_at_s = trio.current_time()
            if isinstance(message, Bye):
                self._on_bye(party)
                return
            self._on_message(party, message, payload)

    def _on_message(self, party: Party, message: FromClient, payload: memoryview) -> None:
        if party.ended:
            # It is being told why; what it sent meanwhile is of no use.
            return
        if isinstance(message, OutputGradient):
            party.order.on_output_gradient(message.number)
            self.worker.put(Work(party.group, message.number, (), payload))
        elif isinstance(message, Forward | Evaluate):
            party.on_request(message.number, len(payload))
            if self._config.client_weights != "own":
                if self.turns.holder is not party:
                    raise RefusedError("order", "it is not this client's turn")
                self.turns.on_work(party)
                self._let_leave()
            self._on_batch(party, message, payload)
        elif isinstance(message, AskTurn | EndTurn | AskLeave):
            party.on_request(message.number, 0)
            if party.order.open > 1 or self._config.client_weights == "own":
                raise MessageInvalid("no turn can begin or end now")
            if isinstance(message, AskLeave):
                party.leave_number = message.number
                self._let_leave()
                return
            if isinstance(message, AskTurn):
                if self.turns.holder is party:
                    raise MessageInvalid("this client has its turn already")
                party.turn_number = message.number
                if self.turns.on_ask(party):
                    self._grant(party)
            else:
                self._nursery.start_soon(self._end_turn, party, message)
        else:
            raise MessageInvalid(f"{type(message).__name__} within a session")

    def _on_batch(self, party: Party, message: Forward | Evaluate, payload: memoryview) -> None:
        kind = "forward" if isinstance(message, Forward) else "evaluate"
        if party.group.departed is not None:
            self._fail(party, party.group.departed)
            return
        party.count(message)
        try:
            whole = party.group.lineup.on_request(
                message.number,
                party.hello.party,
                party.arrived(message, payload),
                kind=kind,
                rows=message.rows,
                entities=message.entities,
            )
        except PartiesDiffer as exc:
            self._fail_group(party.group, RefusedError("order", str(exc)))
            return
        if whole is not None:
            self.worker.put(Work(party.group, message.number, whole))

    # --- who is there ---

    async def _forget_later(self, party: Party, streams: int) -> None:
        """A client that is gone has some time to come back."""
        await trio.sleep(self._config.resume_s)
        if party.streams == streams and not party.ended:
            self._end(party, RefusedError("lost", "the client did not come back"))

    def _on_bye(self, party: Party) -> None:
        """Other parties keep what they were answered, and get nothing more."""
        self._finished += 1
        group = party.group
        group.departed = RefusedError("party-lost", f"party {party.hello.party} has left")
        self._remove(party)
        for other in group.members:
            if not other.ended and other.order.open:
                self._fail(other, group.departed)
        self._tell()

    def _end(self, party: Party, failure: MessageInvalid | RefusedError) -> None:
        """A session has failed by its client's fault, and with it those of the other parties."""
        if party.ended:
            return
        logger.info("split_session_failed peer=%s cause=%s", short(party.peer_id), failure)
        self._remove(party)
        text = f"the session of party {party.hello.party} has ended: {failure}"
        for other in party.group.members:
            self._fail(other, RefusedError("party-lost", text))
        self._tell()

    def _fail_group(self, group: Group, failure: RefusedError) -> None:
        """What a group asked for cannot be computed: all its sessions end."""
        for party in group.members:
            self._fail(party, failure)
        self._tell()

    def _fail(self, party: Party, failure: RefusedError) -> None:
        if not party.ended:
            logger.info("split_session_failed peer=%s cause=%s", short(party.peer_id), failure)
            self._remove(party)
            party.fail(failure)

    def _remove(self, party: Party) -> None:
        party.ended = True
        party.wants_gradient.clear()
        self._registry.remove(party)
        self.worker.drop(party.group)
        self.traffic.add(party.traffic)
        if (following := self.turns.on_gone(party)) is not None:
            self._grant(following)
        self._let_leave()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    # --- turns ---

    def _grant(self, party: Party) -> None:
        kept = self.turns.kept
        turn = Turn(party.turn_number, kept.version, kept.keeper, kept.digest, kept.addresses)
        party.answer(party.turn_number, Frame(turn))
        self._nursery.start_soon(self._watch_turn, party, party.turn_number)

    async def _watch_turn(self, party: Party, number: int) -> None:
        """Take the turn from a client that does nothing with it."""
        idle_s = self._config.turn_idle_s
        party.heard_at_s = trio.current_time()
        while (left_s := party.heard_at_s + idle_s - trio.current_time()) > 0:
            await trio.sleep(left_s)
            if self.turns.holder is not party or party.turn_number != number:
                return
            if party.order.is_computing:
                # It waits for us.
                party.heard_at_s = trio.current_time()
        self._fail(party, RefusedError("idle", f"nothing was done in this turn for {idle_s:g} s"))
        self._tell()

    async def _end_turn(self, party: Party, message: EndTurn) -> None:
        version = self.turns.kept.version + 1
        keeper, addresses = str(party.peer_id), message.addresses
        if self.turns.holder is not party:
            self._fail(party, RefusedError("order", "it was not this client's turn"))
            return
        if self._config.client_weights == "server":
            try:
                await self._keeper.take_over(
                    party.peer_id, version, message.digest, self._config.weights_bytes_max
                )
            except RefusedError as exc:
                self._fail(party, exc)
                return
            keeper, addresses = str(self._node.peer_id), ()
        if party.ended:
            return
        following = self.turns.on_end(party, Kept(version, keeper, message.digest, addresses))
        party.answer(message.number, Frame(TurnEnded(message.number, version)))
        if following is not None:
            self._grant(following)
        self._let_leave()

    def _let_leave(self) -> None:
        """Answer those who would leave and whose weights are not needed any more."""
        parties = self._registry.parties
        # Where the server keeps the weights, nobody needs a client for them.
        kept_here = self._config.client_weights == "server"
        for party in parties:
            number = party.leave_number
            others = len(parties) > 1 and not kept_here
            if number and self.turns.may_leave(party, others=others):
                party.leave_number = 0
                party.answer(number, Frame(MayLeave(number)))


@asynccontextmanager
async def open_split_service(
    node: Node,
    run: str,
    parts: Parts,
    trainer: BodyTrainer,
    compute: Compute,
    *,
    dtype: str,
    config: SplitServerConfig | None = None,
) -> AsyncIterator[SplitService]:
    """Serve a run's clients while the block lasts.

    Args:
        compute: where the trainer's methods run.
        dtype: float32 or float64, what the body computes in.
    """
    config = config or SplitServerConfig()
    if parts.parties > 1 and config.client_weights != "own":
        raise ValueError("clients that take turns cannot be parties of one step")
    rpc = RpcService(
        split_service_name(run),
        schema.MAJOR,
        calls_per_peer_max=2 * config.sessions_per_peer_max,
    )
    async with (
        open_service_nursery() as nursery,
        open_weights_keeper(node, run, config.donor) as keeper,
    ):
        service = SplitService(node, parts, trainer, compute, nursery, keeper, config, dtype)
        rpc.stream(session_method(config.message_bytes_max), service.on_session)
        nursery.start_soon(service.worker.run)
        async with rpc.serving(node):
            yield service
