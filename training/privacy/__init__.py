"""What peers keep from each other: differential privacy; private inference has its own folder."""

from training.privacy.accountant import Accountant, epsilon_of, noise_multiplier_for
from training.privacy.budget import PrivacyBudget
from training.privacy.clients import PrivateClients
from training.privacy.dp_sgd import DpSgd, PoissonLots, PrivateBatch, PrivateGradients
from training.privacy.noise import NoiseShares

__all__ = [
    "Accountant",
    "DpSgd",
    "NoiseShares",
    "PoissonLots",
    "PrivacyBudget",
    "PrivateBatch",
    "PrivateClients",
    "PrivateGradients",
    "epsilon_of",
    "noise_multiplier_for",
]
