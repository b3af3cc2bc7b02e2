"""Lightning that may be interrupted at any step and goes on as if nothing had been.

    python train_lightning.py

Runs unchanged on a laptop and in pushtrain. One callback asks, saves and stops; the loader knows where it is,
so that the rest of an epoch is the rest, not the beginning again.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pushtrain

EPOCHS = int(os.environ.get("EPOCHS", "4"))
SAVE_EVERY = int(os.environ.get("SAVE_EVERY", "100"))
LAST = pushtrain.checkpoint_dir / "last.ckpt"


class Interruptible(Callback):
    """Saves now and then, and when the machine is wanted back; then the training ends."""

    def __init__(self) -> None:
        self.asked = False

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Ask once a step; processes that train together agree."""
        self.asked = trainer.strategy.reduce_boolean_decision(pushtrain.should_stop(), all=False)
        if self.asked or trainer.global_step % SAVE_EVERY == 0:
            fresh = LAST.with_suffix(".new")
            trainer.save_checkpoint(fresh)  # every process must call it
            if trainer.is_global_zero:
                fresh.replace(LAST)
        trainer.should_stop = self.asked

    def state_dict(self) -> dict[str, Any]:
        """The random numbers, from which dropout goes on."""
        return {"chance": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.chance = state_dict["chance"]

    def on_train_batch_start(self, *_: Any) -> None:
        """Everything is loaded by now."""
        if (chance := self.__dict__.pop("chance", None)) is not None:
            torch.set_rng_state(chance)


class Batches(DataLoader):
    """A loader whose order is a matter of its epoch, and which can go on in the middle of one."""

    epoch, begin, given = 0, 0, 0

    def __iter__(self) -> Iterator[Any]:
        """The rest of this epoch, or the next one."""
        chance = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(self.dataset), generator=chance).split(self.batch_size)
        begin, self.begin = self.begin, 0
        for number in range(begin, len(order)):
            self.given = number + 1
            yield self.dataset[order[number]]
        self.epoch, self.given = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"epoch": self.epoch, "given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.epoch, self.begin = state["epoch"], state["given"]


class Model(lightning.LightningModule):
    """A small network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """One step."""
        inputs, wanted = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.layers(inputs), wanted)
        if self.trainer.is_global_zero:
            pushtrain.log(step=self.global_step + 1, loss=loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    """Train."""
    pushtrain.should_stop()  # listens to the signal, so that Lightning does not
    lightning.seed_everything(7)
    x = torch.randn(2048, 16)
    loader = Batches(TensorDataset(x, (x.sum(1, keepdim=True) > 0).float()), batch_size=16)
    interruptible = Interruptible()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        callbacks=[interruptible],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=Path(os.environ.get("TMPDIR", ".")),
    )
    resume = LAST if pushtrain.resuming and LAST.exists() else None
    trainer.fit(Model(), loader, ckpt_path=resume, weights_only=False)
    if interruptible.asked:
        pushtrain.checkpointed()


main()
