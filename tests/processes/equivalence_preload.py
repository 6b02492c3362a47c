"""Imports what takes long, once, in the process that the equivalence's peers are forked from."""

import importlib

import torch

from tests.processes.equivalence_peer import make_model, make_optimizer

importlib.import_module("p2p.host.host")
# PyTorch imports the half of itself when the first optimizer is made.
make_optimizer(make_model(torch.float32)).zero_grad()
