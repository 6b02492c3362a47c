"""The messages of split learning: protocol `/manyhands/split.<run hash>/1`, one stream per session.

    client -> server   HELLO{session, model hash, cut, dtype, codec, label side, …}
    server             WELCOME{received, gradients, client weights}
    client             FORWARD{n} + activations (+ labels)
    server             [labels at the client: OUTPUT{n} + output]
    client             [                      OUTPUT_GRADIENT{n} + gradient of the output]
    server             GRADIENT{n, loss} + gradient of the activations
    client             EVALUATE{n} + activations            server  OUTPUT{n} + output
    client             ASK_TURN{n}                          server  TURN{n, who keeps the weights}
    client             END_TURN{n, digest}                  server  TURN_ENDED{n}
    client             ASK_LEAVE{n}                         server  MAY_LEAVE{n}
    client             BYE

Requests are numbered from 1 in each session, without a gap; at most *window* of them are open.
After a lost connection HELLO says how many answers the client has, and WELCOME what the server
has; what is between is sent again and computed once. A refusal ends the session.

Source: Vepakomma et al., "Split learning for health", 2018: vanilla, U-shaped and vertical
configurations; Vepakomma et al., "NoPeek", 2020.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from msgspec import Meta

from p2p import Message, Method

SERVICE = "split"
MAJOR = 1

MESSAGE_BYTES_MAX = 8192
PAYLOAD_BYTES_MAX = 256 << 20
"""More than this no configuration allows behind one message."""
WINDOW_MAX = 64
PARTIES_MAX = 64
ADDRESSES_MAX = 16
LOSS_MAX = 3.4e38
"""As much as a float32 can hold."""

LabelDtype = Literal["", "int64", "float32", "float64"]
"""Empty: no labels."""
LabelSide = Literal["server", "client"]
ClientWeights = Literal["own", "peers", "server"]
"""Each client keeps its own, or one set goes round: among the clients, or through the server."""

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Number = Annotated[int, Meta(ge=1, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Rows = Annotated[int, Meta(ge=1, le=1 << 20)]
Shape = Annotated[
    tuple[Annotated[int, Meta(ge=1, le=1 << 30)], ...],
    Meta(max_length=8),
]
Address = Annotated[str, Meta(max_length=512)]
Entities = Annotated[bytes, Meta(max_length=32)]


class Hello(Message, frozen=True, tag="hello"):
    """Opens a session, or goes on with it after a lost connection."""

    session: SessionId
    completed: Count
    """Answers that the client has; none of them is needed again."""
    resumes: bool
    model_hash: Hash
    cut_shape: Shape
    """Of the activations of one sample."""
    output_shape: Shape
    """Of the output of one sample where the labels stay at the client; empty otherwise."""
    dtype: Literal["float32", "float64"]
    codec: Annotated[str, Meta(max_length=64)]
    """How activations and gradients travel."""
    label_side: LabelSide
    brings_labels: bool
    """Of several parties exactly one does."""
    party: Annotated[int, Meta(ge=0, lt=PARTIES_MAX)]
    window: Annotated[int, Meta(ge=1, le=WINDOW_MAX)]
    task_weight: Annotated[float, Meta(gt=0, le=1)]
    """What the server's loss is multiplied by before gradients are taken."""


class Forward(Message, frozen=True, tag="forward"):
    """Activations to train on; labels lie behind them where they are the server's to see."""

    number: Number
    rows: Rows
    values_bytes: Count
    label_shape: Shape = ()
    """Of one sample's label."""
    label_dtype: LabelDtype = ""
    entities: Entities = b""
    """A digest of whom the rows are about; parties must agree on it. Empty: not compared."""


class OutputGradient(Message, frozen=True, tag="output-gradient"):
    """The gradient of the client's loss with respect to the output."""

    number: Number


class Evaluate(Message, frozen=True, tag="evaluate"):
    """Activations whose output is wanted; nothing is trained."""

    number: Number
    rows: Rows
    entities: Entities = b""


class AskTurn(Message, frozen=True, tag="ask-turn"):
    """The client wants to be the one that trains."""

    number: Number


class EndTurn(Message, frozen=True, tag="end-turn"):
    """The client has trained; its weights can be had."""

    number: Number
    digest: Hash
    """Of the weights as handed on."""
    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES_MAX)] = ()
    """Where the client can be dialed."""


class AskLeave(Message, frozen=True, tag="ask-leave"):
    """The client would leave; answered when nobody needs it any more for its weights."""

    number: Number


class Bye(Message, frozen=True, tag="bye"):
    """The session is over."""


class Welcome(Message, frozen=True, tag="welcome"):
    """The session is open."""

    received: Count
    """Requests that the server has."""
    gradients: Count
    """The last request for whose output the server has the gradient."""
    client_weights: ClientWeights


class Output(Message, frozen=True, tag="output"):
    """What the server's part made of the activations; in evaluation without the codec."""

    number: Number
    shape: Shape
    """Of one sample's output."""


class Gradient(Message, frozen=True, tag="gradient"):
    """The gradient with respect to the activations; the server has taken its step."""

    number: Number
    loss: Annotated[float, Meta(ge=-LOSS_MAX, le=LOSS_MAX)] | None = None
    """Mean over the samples, where the server computed it."""


class Turn(Message, frozen=True, tag="turn"):
    """The client's turn has come; with whom the newest client weights are."""

    number: Number
    version: Count
    """0: nobody has trained yet, and the client's own weights are those to begin with."""
    keeper: Annotated[str, Meta(max_length=128)] = ""
    digest: Annotated[bytes, Meta(max_length=32)] = b""
    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES_MAX)] = ()


class TurnEnded(Message, frozen=True, tag="turn-ended"):
    """The next client may train; the weights are this version."""

    number: Number
    version: Number


class MayLeave(Message, frozen=True, tag="may-leave"):
    """The newest weights are with another client too, or nobody else is there."""

    number: Number


Request = Forward | Evaluate | AskTurn | EndTurn | AskLeave
FromClient = Hello | Request | OutputGradient | Bye
Answer = Gradient | Output | Turn | TurnEnded | MayLeave
FromServer = Welcome | Answer


def session_method(payload_bytes_max: int) -> Method[FromClient, FromServer]:
    """The streaming call that a session is; larger payloads are refused unread."""
    return Method(
        "session",
        FromClient,  # type: ignore[arg-type]
        FromServer,  # type: ignore[arg-type]
        request_bytes_max=MESSAGE_BYTES_MAX,
        response_bytes_max=MESSAGE_BYTES_MAX,
        payload_bytes_max=payload_bytes_max,
    )


def split_service_name(run: str) -> str:
    """Name the service of a run; the run's name is hashed, as protocol ids are short."""
    return f"{SERVICE}.{hashlib.sha256(run.encode()).hexdigest()[:16]}"
