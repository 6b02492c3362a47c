"""For people who already have a loop: one module for each framework that brings its own.

    huggingface   SwarmTrainer, a Trainer of transformers
    lightning     SwarmCallback, a callback of PyTorch Lightning
    ddp           ProcessGroupOptimizer, for a torchrun job that is one peer together

Nothing here is imported with `training`. A module whose framework is not installed raises
PackageMissing, which names what to install.
"""
