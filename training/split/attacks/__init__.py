"""Attacks on what parties of split learning see of each other, to measure what it gives away."""

from training.split.attacks.gradients import GradientLeak, input_of_linear_layer, search_input
from training.split.attacks.labels import (
    Classifier,
    LabelInference,
    Labelled,
    direction_classifier,
    infer_labels,
    norm_leak,
    softmax_classifier,
)
from training.split.attacks.neighbours import neighbour_decoder
from training.split.attacks.networks import convolution_decoder, perceptron_decoder
from training.split.attacks.reconstruction import Decoder, Pairs, Reconstruction, reconstruct
from training.split.attacks.ridge import ridge_decoder

__all__ = [
    "Classifier",
    "Decoder",
    "GradientLeak",
    "LabelInference",
    "Labelled",
    "Pairs",
    "Reconstruction",
    "convolution_decoder",
    "direction_classifier",
    "infer_labels",
    "input_of_linear_layer",
    "neighbour_decoder",
    "norm_leak",
    "perceptron_decoder",
    "reconstruct",
    "ridge_decoder",
    "search_input",
    "softmax_classifier",
]
