"""A Trainer of Hugging Face's transformers that trains a tiny GPT-2 with whoever else does.

python examples/huggingface_trainer.py [ADDRESS OF A PEER]
"""

import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

import training
from training.plugins.huggingface import SwarmTrainer

LENGTH = 16
SYMBOLS = 12


class Counting(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences that count up from any symbol, and begin again after the last."""

    def __len__(self) -> int:
        return 64 * SYMBOLS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        symbols = (index + torch.arange(LENGTH)) % SYMBOLS
        return {"input_ids": symbols, "labels": symbols}


def main(initial_peers: list[str]) -> None:
    """Train for twenty global steps, whoever takes part."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=SYMBOLS, n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        training.join("counting", initial_peers=initial_peers) as swarm,
    ):
        print("join with:", swarm.addresses[0], flush=True)
        trainer = SwarmTrainer(
            GPT2LMHeadModel(config),
            TrainingArguments(
                output_dir=folder,
                max_steps=20,  # global steps: those of all peers together
                per_device_train_batch_size=8,
                gradient_accumulation_steps=2,
                learning_rate=0.02,
                warmup_steps=4,
                logging_steps=5,
                eval_strategy="steps",
                eval_steps=10,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Counting(),
            eval_dataset=torch.utils.data.Subset(Counting(), range(SYMBOLS)),
            swarm=swarm,
            global_batch=64,
        )
        trainer.train()
        found = trainer.evaluate()["eval_loss"]
        print(f"global step {swarm.global_step}, loss {found:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
