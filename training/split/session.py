"""The client's end of a session: one stream to the server, opened again when it is lost."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import trio

from averaging.codecs.floating import ITEM_SIZE_BYTES
from p2p import (
    CallTimeout,
    MessageInvalid,
    Node,
    PeerId,
    RefusedError,
    RemoteError,
    RpcCall,
    StreamBroken,
    UnreachableError,
    open_service_nursery,
    rpc_client,
)
from training.errors import SplitFailed
from training.split import schema
from training.split.config import SplitClientConfig
from training.split.frames import Frame, Outbox, send_frame
from training.split.order import ClientOrder
from training.split.schema import (
    Answer,
    AskTurn,
    Bye,
    Evaluate,
    Forward,
    FromClient,
    FromServer,
    Gradient,
    Hello,
    Output,
    OutputGradient,
    Turn,
    TurnEnded,
    Welcome,
    session_method,
    split_service_name,
)
from training.split.traffic import Traffic
from training.split.wire import Payload, TensorWire

_REDIAL_S = 0.5
_REDIAL_S_MAX = 5.0
_FAREWELL_S = 2.0


@dataclass(frozen=True)
class Event:
    """Something that the server sent, and the request that it belongs to."""

    message: Answer
    payload: Payload
    request: Frame

    @property
    def rows(self) -> int:
        """Samples of the request."""
        asked = self.request.message
        return asked.rows if isinstance(asked, Forward | Evaluate) else 0


class SplitSession:
    """Sends requests in order and gives what comes of them; used from trio's thread.

    Args:
        hello: what this client says of itself; completed and resumes are filled in.
    """

    def __init__(
        self,
        node: Node,
        run: str,
        server: PeerId,
        hello: Hello,
        config: SplitClientConfig,
        traffic: Traffic,
    ) -> None:
        self._node = node
        self._server = server
        self._hello = hello
        self._config = config
        self._traffic = traffic
        self._client = rpc_client(node, split_service_name(run), schema.MAJOR)
        self._method = session_method(config.message_bytes_max)
        self._wire = TensorWire(hello.codec, hello.dtype)
        self._order: ClientOrder[Frame] = ClientOrder(hello.window)
        self._outbox = Outbox()
        self._events: deque[Event] = deque()
        self._changed = trio.Event()
        self._failure: SplitFailed | None = None
        self._call: RpcCall[FromClient, FromServer] | None = None
        self._talking = trio.CancelScope()
        self._said_bye = False
        self._left = False
        self.welcome: Welcome | None = None
        """What the server said first."""

    @property
    def server(self) -> PeerId:
        """The other end."""
        return self._server

    @property
    def path(self) -> str | None:
        """How the stream goes now: direct, punched or relayed; None while there is none."""
        call = self._call
        return None if call is None else call.path

    @property
    def weights_go_round(self) -> bool:
        """Whether the server has its clients take turns with one set of weights."""
        return self.welcome is not None and self.welcome.client_weights != "own"

    @property
    def next_number(self) -> int:
        """Of the next request."""
        return self._order.next_number

    async def wait_ready(self) -> None:
        """Return when the server has let us in.

        Raises:
            SplitFailed: it did not.
        """
        while self.welcome is None:
            self._raise_failure()
            await self._changed.wait()

    def check_size(self, frame: Frame) -> None:
        """See that a frame may be sent; for any thread.

        Raises:
            ValueError: its payload is too large.
        """
        size_bytes = memoryview(frame.payload).nbytes
        if size_bytes > self._config.message_bytes_max:
            raise ValueError(
                f"{size_bytes} bytes for one message are over message_bytes_max, "
                f"{self._config.message_bytes_max}; give a smaller batch or raise it"
            )

    async def advance(self, frame: Frame | None, *, open_max: int) -> Event | None:
        """Send a request or the gradient of an output, if given, and give the next event.

        Args:
            open_max: give None once no more than so many requests are without an answer that was
                given here.

        Raises:
            SplitFailed: the session has ended, or nothing came for too long.
        """
        self._raise_failure()
        if frame is not None:
            self._put(frame)
        if self._pending <= open_max:
            return None
        # Others' turns take as long as they take.
        waits_for_turn = frame is not None and isinstance(frame.message, AskTurn)
        with trio.move_on_after(math.inf if waits_for_turn else self._config.answer_s):
            while not self._events:
                self._raise_failure()
                await self._changed.wait()
            return self._events.popleft()
        raise self._fail("silent", f"the server sent no answer for {self._config.answer_s:g} s")

    async def abandon(self) -> None:
        """End the session: what a step of it was to do has failed here."""
        if self._failure is None:
            self._failure = SplitFailed("abandoned", "the session has ended by an error here")
            self._outbox.put(Frame(Bye()))
            self._tell()

    async def run(self) -> None:
        """Keep a stream to the server until the session ends."""
        lost_s: float | None = None
        pause_s = _REDIAL_S
        while not self._left:
            cause = "the server ended the stream"
            try:
                with trio.CancelScope() as self._talking:
                    async with self._client.open(
                        self._server,
                        self._method,
                        self._greeting(),
                        timeout_s=self._config.dial_s,
                    ) as call:
                        await self._begin(call)
                        lost_s, pause_s = None, _REDIAL_S
                        await self._talk(call)
                if self._talking.cancelled_caught:
                    continue
            except (StreamBroken, UnreachableError, CallTimeout, trio.TooSlowError) as exc:
                cause = str(exc) or "the server did not answer"
            except RefusedError as exc:
                self._fail(exc.code, f"the server refused: {exc.message or exc.code}")
            except RemoteError as exc:
                self._fail("order", f"the server broke the protocol: {exc}")
            finally:
                self._call = None
            if self._said_bye or self._left:
                break
            now_s = trio.current_time()
            lost_s = now_s if lost_s is None else lost_s
            if now_s - lost_s >= self._config.resume_s:
                what = "connection to the server was lost"
                if self.welcome is None:
                    what = "server could not be reached"
                self._fail("lost", f"the {what} ({cause})")
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _REDIAL_S_MAX)
        self._left = True
        self._tell()

    async def leave(self) -> None:
        """Say goodbye, if there is somebody to say it to."""
        if self._failure is None and self._call is not None:
            self._outbox.put(Frame(Bye()))
            deadline_s = trio.current_time() + _FAREWELL_S
            with trio.CancelScope(shield=True, deadline=deadline_s):
                while not self._left:
                    await self._changed.wait()
        self._left = True

    # --- the stream ---

    def _greeting(self) -> Hello:
        return msgspec.structs.replace(
            self._hello, completed=self._order.completed, resumes=self.welcome is not None
        )

    async def _begin(self, call: RpcCall[FromClient, FromServer]) -> None:
        with trio.fail_after(self._config.dial_s):
            received = await call.receive()
        if received is None or not isinstance(received[0], Welcome):
            raise MessageInvalid("no welcome")
        welcome = received[0]
        self._outbox.reset(self._order.on_welcome(welcome.received, welcome.gradients))
        self.welcome = welcome
        self._call = call
        self._tell()

    async def _talk(self, call: RpcCall[FromClient, FromServer]) -> None:
        async with open_service_nursery() as nursery:
            nursery.start_soon(self._send_all, call)
            while (received := await call.receive_into(self._buffer_for)) is not None:
                message, payload = received
                self._on_message(message, payload)

    async def _send_all(self, call: RpcCall[FromClient, FromServer]) -> None:
        # What the server said last may still be read: why it broke, perhaps.
        with contextlib.suppress(StreamBroken):
            while not self._said_bye:
                frame = await self._outbox.next()
                await send_frame(self._node, call, frame, self._traffic)
                if isinstance(frame.message, Bye):
                    self._said_bye = True
                    await call.finish_sending()

    def _buffer_for(self, message: FromServer, size_bytes: int) -> memoryview:
        self._check_size(message, size_bytes)
        return memoryview(bytearray(size_bytes))

    def _check_size(self, message: FromServer, size_bytes: int) -> None:
        """Before anything is allocated."""
        limit_bytes = 0
        if isinstance(message, Gradient | Output):
            request = self._order.request(message.number)
            asked = None if request is None else request.message
            if isinstance(asked, Forward):
                is_gradient = isinstance(message, Gradient)
                shape = self._hello.cut_shape if is_gradient else self._hello.output_shape
                limit_bytes = self._wire.size_limit_bytes(asked.rows * math.prod(shape))
                if isinstance(message, Output) and message.shape != shape:
                    raise MessageInvalid(f"an output of shape {message.shape}")
            elif isinstance(asked, Evaluate) and isinstance(message, Output):
                limit_bytes = asked.rows * math.prod(message.shape)
                limit_bytes *= ITEM_SIZE_BYTES[self._hello.dtype]
        if size_bytes > limit_bytes:
            raise MessageInvalid(f"{size_bytes} bytes where at most {limit_bytes} were due")

    def _on_message(self, message: FromServer, payload: memoryview) -> None:
        self._traffic.payload_bytes_received += len(payload)
        self._check_size(message, len(payload))
        if isinstance(message, Welcome):
            raise MessageInvalid("a second welcome")
        request = self._order.request(message.number)
        asked = None if request is None else request.message
        if isinstance(message, Output) and isinstance(asked, Forward):
            self._on_output(message, payload)
            return
        due: dict[type, type] = {
            Gradient: Forward,
            Output: Evaluate,
            Turn: AskTurn,
            TurnEnded: schema.EndTurn,
            schema.MayLeave: schema.AskLeave,
        }
        if type(asked) is not due[type(message)]:
            raise MessageInvalid(f"{type(message).__name__} does not answer what was asked")
        labels_here = bool(self._hello.output_shape) and self._hello.brings_labels
        too_early = labels_here and not self._order.sent_gradient(message.number)
        if isinstance(message, Gradient) and too_early:
            raise MessageInvalid("a gradient before that of the output was sent")
        self._events.append(Event(message, payload, self._order.on_answer(message.number)))
        self._tell()

    @property
    def _pending(self) -> int:
        """Requests without an answer, or whose answer was not given yet."""
        outputs = sum(
            isinstance(event.message, Output) and isinstance(event.request.message, Forward)
            for event in self._events
        )
        return self._order.open + len(self._events) - outputs

    def _on_output(self, message: Output, payload: memoryview) -> None:
        if not (self._hello.output_shape and self._hello.brings_labels):
            raise MessageInvalid("an output where the server has the labels")
        if self._order.on_output(message.number):
            request = self._order.request(message.number)
            assert request is not None
            self._events.append(Event(message, payload, request))
            self._tell()

    def _put(self, frame: Frame) -> None:
        if isinstance(frame.message, OutputGradient):
            self._order.on_output_gradient(frame.message.number, frame)
        else:
            self._leave_relay()
            self._order.on_request(frame)
        self._outbox.put(frame)

    def _leave_relay(self) -> None:
        """Between two steps, go over to a better path if one has come up."""
        if self._call is None or self._call.path != "relayed" or self._order.open:
            return
        best = self._node.path_to(self._server)
        if best is not None and best.path != "relayed":
            self._talking.cancel()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _fail(self, code: str, cause: str) -> SplitFailed:
        self._failure = self._failure or SplitFailed(code, cause)
        self._left = True
        self._tell()
        return self._failure

    def _raise_failure(self) -> None:
        if self._failure is not None:
            # A new one each time, so that tracebacks do not grow on one that is raised again.
            raise SplitFailed(self._failure.code, self._failure.cause)


@asynccontextmanager
async def open_split_session(
    node: Node,
    run: str,
    server: PeerId,
    hello: Hello,
    config: SplitClientConfig,
    traffic: Traffic,
) -> AsyncIterator[SplitSession]:
    """A session with a server while the block lasts; entered means that it let us in.

    Raises:
        SplitFailed: it did not, or could not be reached.
    """
    session = SplitSession(node, run, server, hello, config, traffic)
    async with open_service_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.wait_ready()
        try:
            yield session
        finally:
            await session.leave()
