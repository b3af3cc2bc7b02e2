"""Is the way back through the network really the slope of the loss?   python test_train.py"""

import numpy as np

import train


def network():
    """A small one in double precision, always the same."""
    random = np.random.default_rng(2)
    layers = [train.Convolution(1, 2, random), train.Convolution(2, 3, random), train.Linear(12, 10, random)]
    for layer in layers:
        layer.weights, layer.bias = layer.weights.astype(float), layer.bias.astype(float)
        layer.speed = [np.zeros_like(layer.weights), np.zeros_like(layer.bias)]
    return layers


def test_every_weight_moves_against_the_slope_of_the_loss():
    images, labels = np.random.default_rng(1).random((3, 8, 8, 1)), np.array([2, 7, 1])

    def loss(layers):
        return -np.log(train.forward(layers, images)[np.arange(3), labels]).mean()

    before, after = network(), network()
    train.step(after, images, labels, rate=1.0)
    for number, layer in enumerate(before):
        for name in ("weights", "bias"):
            for place in np.ndindex(getattr(layer, name).shape):
                moved = getattr(layer, name)[place] - getattr(after[number], name)[place]
                low, high = network(), network()
                getattr(low[number], name)[place] -= 1e-5
                getattr(high[number], name)[place] += 1e-5
                assert abs(moved - (loss(high) - loss(low)) / 2e-5) < 1e-6, (number, name, place)


if __name__ == "__main__":
    test_every_weight_moves_against_the_slope_of_the_loss()
    print("every weight moves against the slope of the loss")
