"""Plain PyTorch that may be interrupted at any step and goes on as if nothing had been.

    python train_torch.py
    torchrun --nproc-per-node 2 train_torch.py

Runs unchanged on a laptop and in pushtrain. The processes of one training agree before they stop, what is
saved holds everything that the next step depends on, and it is put in place in one step.
"""

import itertools
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import pushtrain

EPOCHS = int(os.environ.get("EPOCHS", "4"))
SAVE_EVERY = int(os.environ.get("SAVE_EVERY", "100"))
LAST = pushtrain.checkpoint_dir / "last.pt"
DEVICE = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Train a small network."""
    if "RANK" not in os.environ:  # started without torchrun: a group of one
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("gloo" if DEVICE == "cpu" else "nccl")
    rank = dist.get_rank()
    torch.manual_seed(7)
    x = torch.randn(4096, 16)
    data = TensorDataset(x, (x.sum(1, keepdim=True) > 0).float())
    sampler = DistributedSampler(data, seed=7)
    # Each iterator draws a number: from a generator of its own, so that resuming does not shift dropout.
    loader = DataLoader(data, batch_size=16, sampler=sampler, generator=torch.Generator())
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1)).to(DEVICE)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(1000 + rank)  # each process drops out other neurons

    step = 0
    if pushtrain.resuming and LAST.exists():
        saved = torch.load(LAST, weights_only=True, map_location="cpu")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        set_chance(saved["chance"][rank])

    for epoch in range(step // len(loader), EPOCHS):
        sampler.set_epoch(epoch)
        for inputs, wanted in itertools.islice(loader, step % len(loader), None):
            guess = model(inputs.to(DEVICE))
            loss = nn.functional.binary_cross_entropy_with_logits(guess, wanted.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if rank == 0:
                pushtrain.log(step=step, loss=loss)
            stop = agreed(pushtrain.should_stop())
            if stop or step % SAVE_EVERY == 0:
                save(rank, step=step, model=model.state_dict(), optimizer=optimizer.state_dict())
            if stop:
                dist.destroy_process_group()
                pushtrain.checkpointed()
    dist.destroy_process_group()


def agreed(mine: bool) -> bool:
    """Whether any process wants to stop: else the others would wait for it in vain."""
    wish = torch.tensor(int(mine), device=DEVICE)
    dist.all_reduce(wish, op=dist.ReduceOp.MAX)
    return bool(wish)


def save(rank: int, **state: object) -> None:
    """Put a checkpoint in place, whole or not at all; every process adds its random numbers."""
    chances: list[dict[str, torch.Tensor]] = [{}] * dist.get_world_size()
    dist.all_gather_object(chances, chance())
    if rank == 0:
        fresh = LAST.with_suffix(".new")
        torch.save({**state, "chance": chances}, fresh)
        fresh.replace(LAST)
    dist.barrier()


def chance() -> dict[str, torch.Tensor]:
    """Where the random numbers of this process are: dropout goes on from there."""
    cuda = {} if DEVICE == "cpu" else {"cuda": torch.cuda.get_rng_state(DEVICE)}
    return {"cpu": torch.get_rng_state(), **cuda}


def set_chance(state: dict[str, torch.Tensor]) -> None:
    """Go on from there."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], DEVICE)


main()
