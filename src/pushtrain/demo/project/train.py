"""Teach a small convolutional network to read handwritten digits, with nothing but numpy.

    python train.py

Reads `data/digits.csv.gz`; writes a line of metrics for each epoch, the model, and a summary. Under pushtrain
the `PUSHTRAIN_*` variables say where; without it everything goes to `results/`.
"""

import json
import os
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

FILTERS = 6  # patterns that the first layer looks for; the second looks for twice as many
EPOCHS = 36
BATCH = 8
LEARNING_RATE = 0.05
MOMENTUM = 0.9
SEED = 0

DATA = Path("data/digits.csv.gz")
RESULTS = Path(os.environ.get("PUSHTRAIN_RESULTS_DIR", "results"))
METRICS = Path(os.environ.get("PUSHTRAIN_METRICS", RESULTS / "metrics.jsonl"))
SUMMARY = Path(os.environ.get("PUSHTRAIN_SUMMARY", RESULTS / "summary.md"))


# --- the digits -------------------------------------------------------------------------------------------


def load(random):
    """1,797 images of 8 x 8 pixels, shuffled; the last fifth is kept for the test."""
    table = random.permutation(np.loadtxt(DATA, delimiter=",", dtype=np.float32))
    images, labels = table[:, :64].reshape(-1, 8, 8, 1) / 16, table[:, 64].astype(int)
    cut = len(table) * 4 // 5
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def moved(images, random):
    """The same digits, each moved by up to one pixel: nobody writes exactly in the middle."""
    rows, columns = random.integers(0, 3, (2, len(images)))
    return windows(images, 8)[np.arange(len(images)), rows, columns]


def windows(images, size):
    """Every `size` x `size` window of the images with a border of one pixel: (n, rows, columns, size, size, c)."""
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.moveaxis(sliding_window_view(framed, (size, size), axis=(1, 2)), 3, -1)


# --- the network ------------------------------------------------------------------------------------------


class Layer:
    """Weights, and how they learn: stochastic gradient descent with momentum."""

    def __init__(self, inputs, outputs, random):
        self.weights = random.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)
        self.speed = [np.zeros_like(self.weights), np.zeros_like(self.bias)]

    def learn(self, seen, error, rate):
        """Move the weights against the slope of the loss."""
        for value, speed, slope in zip((self.weights, self.bias), self.speed, (seen.T @ error, error.sum(0))):
            speed *= MOMENTUM
            speed -= rate * slope
            value += speed


class Convolution(Layer):
    """3 x 3 patterns at every place, then ReLU, then the mean of each 2 x 2 square."""

    def __init__(self, channels, filters, random):
        super().__init__(9 * channels, filters, random)

    def forward(self, images):
        n, rows, columns, _ = images.shape
        self.patches = windows(images, 3).reshape(n * rows * columns, -1)
        self.active = np.maximum(self.patches @ self.weights + self.bias, 0).reshape(n, rows, columns, -1)
        return self.active.reshape(n, rows // 2, 2, columns // 2, 2, -1).mean((2, 4))

    def backward(self, error, rate):
        error = error.repeat(2, axis=1).repeat(2, axis=2) / 4 * (self.active > 0)
        flipped = self.weights.reshape(9, -1, error.shape[-1])[::-1].transpose(0, 2, 1)
        below = windows(error, 3).reshape(-1, 9 * error.shape[-1]) @ flipped.reshape(9 * error.shape[-1], -1)
        self.learn(self.patches, error.reshape(-1, error.shape[-1]), rate)
        return below.reshape(*error.shape[:3], -1)


class Linear(Layer):
    """One score for each of the ten digits, as chances (softmax)."""

    def forward(self, images):
        self.shape, self.seen = images.shape, images.reshape(len(images), -1)
        scores = self.seen @ self.weights + self.bias
        chances = np.exp(scores - scores.max(1, keepdims=True))
        return chances / chances.sum(1, keepdims=True)

    def backward(self, error, rate):
        below = (error @ self.weights.T).reshape(self.shape)
        self.learn(self.seen, error, rate)
        return below


def forward(network, images):
    """The chances of the ten digits for each image."""
    for layer in network:
        images = layer.forward(images)
    return images


def step(network, images, labels, rate):
    """Learn from one batch; the loss before it."""
    chances = forward(network, images)
    truth = np.eye(10, dtype=np.float32)[labels]
    error = (chances - truth) / len(images)
    for layer in reversed(network):
        error = layer.backward(error, rate)
    return -np.log((chances * truth).sum(1) + 1e-9).mean()


# --- what is left behind ----------------------------------------------------------------------------------


def picture(image):
    """An image as five shades of text."""
    return "\n".join("".join(2 * " ░▒▓█"[int(value * 4)] for value in row) for row in image[:, :, 0])


def summary(images, labels, chances):
    """Markdown: which digits are taken for which, and the one that is misread with most confidence."""
    read = chances.argmax(1)
    table = np.zeros((10, 10), int)
    np.add.at(table, (labels, read), 1)
    lines = [f"{(read == labels).sum()} of {len(labels)} test digits are read rightly.", ""]
    lines += ["| is \\ read as | " + " | ".join("0123456789") + " |", "|---|" + "--:|" * 10]
    for digit, row in enumerate(table):
        cells = (f"**{count}**" if other == digit else str(count or "") for other, count in enumerate(row))
        lines.append(f"| **{digit}** | " + " | ".join(cells) + " |")
    wrong = np.flatnonzero(read != labels)
    if len(wrong):
        worst = wrong[chances[wrong].max(1).argmax()]
        sure = chances[worst].max()
        lines += ["", f"Surest mistake: this {labels[worst]} was read as a {read[worst]} ({sure:.0%} sure).", ""]
        lines += ["```text", picture(images[worst]), "```"]
    return "\n".join(lines) + "\n"


def main():
    """Train, tell how it goes, and save what was learnt."""
    random = np.random.default_rng(SEED)
    (images, labels), (test_images, test_labels) = load(random)
    network = [Convolution(1, FILTERS, random), Convolution(FILTERS, 2 * FILTERS, random)]
    network.append(Linear(4 * 2 * FILTERS, 10, random))
    size = sum(layer.weights.size + layer.bias.size for layer in network)
    print(f"{len(images)} digits to learn from, {len(test_images)} for the test; {size:,} weights", flush=True)

    for folder in (RESULTS, METRICS.parent, SUMMARY.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with METRICS.open("w") as metrics:
        for epoch in range(1, EPOCHS + 1):
            rate = LEARNING_RATE * (1 + np.cos(np.pi * (epoch - 1) / EPOCHS)) / 2
            order = random.permutation(len(images))
            batches = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
            loss = np.mean([step(network, moved(images[b], random), labels[b], rate) for b in batches])
            accuracy = (forward(network, test_images).argmax(1) == test_labels).mean()
            line = {"step": epoch, "loss": float(loss), "accuracy": float(accuracy)}
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            print(f"epoch {epoch:2}/{EPOCHS}  loss {loss:.3f}  test accuracy {accuracy:.1%}", flush=True)

    weights = {f"{n}_{name}": getattr(layer, name) for n, layer in enumerate(network) for name in ("weights", "bias")}
    np.savez(RESULTS / "model.npz", **weights)
    SUMMARY.write_text(summary(test_images, test_labels, forward(network, test_images)))


if __name__ == "__main__":
    main()
