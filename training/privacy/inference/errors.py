"""The error of private inference."""

from training.errors import TrainingError


class PrivateInferenceFailed(TrainingError):
    """A private session ended without a result; the message names the peer and the cause.

    Nothing was learnt that the protocol does not give away. Ask again when the cause is a lost
    connection or a busy peer; when the peer sent what makes no sense, it runs something else, or
    cheats: ask another one.
    """
