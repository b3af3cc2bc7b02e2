"""The Hugging Face Trainer that may be interrupted at any step and goes on as if nothing had been.

    python train_huggingface.py

Runs unchanged on a laptop and in pushtrain. One callback asks, and has the Trainer save and stop; what it
saves holds the optimizer, the random numbers and the place in the data already.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import pushtrain

EPOCHS = int(os.environ.get("EPOCHS", "4"))
SAVE_EVERY = int(os.environ.get("SAVE_EVERY", "100"))


class Interruptible(TrainerCallback):
    """Has the Trainer save and stop when the machine is wanted back."""

    asked = False

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask once a step; processes that train together agree."""
        wish = torch.tensor(int(pushtrain.should_stop()), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(wish, op=torch.distributed.ReduceOp.MAX)
        self.asked = bool(wish)
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any, **_: Any) -> None:
        """Have the report draw what is logged."""
        if state.is_world_process_zero and "loss" in logs:
            pushtrain.log(step=state.global_step, loss=logs["loss"], learning_rate=logs["learning_rate"])


class Model(nn.Module):
    """A small network; yours comes from `transformers`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and guess, as the Trainer wants them."""
        guess = self.layers(x)
        return {"loss": nn.functional.binary_cross_entropy_with_logits(guess, labels), "logits": guess}


def last_whole(folder: Path) -> str | None:
    """The last checkpoint that was written to its end: the Trainer writes its state last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def main() -> None:
    """Train."""
    pushtrain.should_stop()
    torch.manual_seed(7)
    x = torch.randn(2048, 16)
    data = [{"x": one, "labels": (one.sum(0, keepdim=True) > 0).float()} for one in x]
    interruptible = Interruptible()
    trainer = Trainer(
        model=Model(),
        args=TrainingArguments(
            output_dir=str(pushtrain.checkpoint_dir),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=16,
            logging_steps=1,
            save_steps=SAVE_EVERY,
            save_total_limit=2,
            report_to=[],
            disable_tqdm=True,
            seed=7,
        ),
        train_dataset=data,
        callbacks=[interruptible],
    )
    resume = last_whole(pushtrain.checkpoint_dir) if pushtrain.resuming else None
    trainer.train(resume_from_checkpoint=resume)
    if interruptible.asked:
        pushtrain.checkpointed()


main()
