"""An ordinary LightningModule that PyTorch Lightning trains with whoever else does.

python examples/lightning_module.py [ADDRESS OF A PEER]
"""

import logging
import sys
import warnings

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import training
from training.plugins.lightning import SwarmCallback


class Digits(lightning.LightningModule):
    """Tells handwritten digits apart; nothing in it knows of a swarm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.layers(images), labels)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        images, labels = batch
        right = (self.layers(images).argmax(dim=1) == labels).float().mean()
        self.log("accuracy", right)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(initial_peers: list[str]) -> None:
    """Train for sixty global steps, whoever takes part."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    lightning.seed_everything(0, verbose=False)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    train_data = TensorDataset(images[:1500], labels[:1500])
    test_data = TensorDataset(images[1500:], labels[1500:])
    with training.join("lightning-digits", initial_peers=initial_peers) as swarm:
        print("join with:", swarm.addresses[0], flush=True)
        trainer = lightning.Trainer(
            max_steps=60,  # global steps: those of all peers together
            callbacks=[SwarmCallback(swarm, global_batch=128)],
            gradient_clip_val=1.0,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module, tests = Digits(), DataLoader(test_data, batch_size=300)
        trainer.fit(module, DataLoader(train_data, batch_size=32, shuffle=True), tests)
        (found,) = trainer.validate(module, tests, verbose=False)
        print(f"global step {trainer.global_step}, accuracy {found['accuracy']:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
