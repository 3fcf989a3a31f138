"""Small models of our own: a perceptron, a LeNet, a ResNet-9."""

from collections.abc import Callable

from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": lambda: nn.ReLU(inplace=True), "gelu": nn.GELU, "tanh": nn.Tanh}


def mlp(num_classes: int, in_features: int, width: int = 64, depth: int = 1, batch_norm: bool = False, activation: str = "relu") -> nn.Module:
    """`depth` hidden layers of `width`, with or without batch-norm. Args: activation: relu, gelu or tanh. Raises: ValueError."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        layers += [nn.Linear(in_features, width), *([nn.BatchNorm1d(width)] if batch_norm else []), ACTIVATIONS[activation]()]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, num_classes))


def lenet(num_classes: int, in_channels: int, image_size: int, channels: tuple[int, int] | list[int] = (32, 64), width: int = 128) -> nn.Module:
    """Two 5x5 convolutions, each with batch-norm, ReLU and 2x2 max-pooling, and one hidden layer (after LeCun et al., 1998)."""
    first, second = channels
    side = image_size // 4
    return nn.Sequential(
        *_convolution(in_channels, first, 5, pool=True),
        *_convolution(first, second, 5, pool=True),
        nn.Flatten(),
        nn.Linear(second * side * side, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, num_classes),
    )


def _block(in_channels: int, out_channels: int, pool: bool) -> nn.Sequential:
    return nn.Sequential(*_convolution(in_channels, out_channels, 3, pool))


def _convolution(in_channels: int, out_channels: int, side: int, pool: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, side, padding=side // 2, bias=False)
    return [convolution, *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class Residual(nn.Module):
    """Two convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _block(channels, channels, pool=False)
        self.second = _block(channels, channels, pool=False)
        self.last_norm = self.second[1]

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        moved: Tensor = images + self.second(self.first(images))
        return moved


class ScaledLinear(nn.Linear):
    """A linear layer whose output is divided by a constant, so that early logits are not too sure."""

    def __init__(self, in_features: int, out_features: int, scale: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, in_features) to (N, out_features)."""
        return super().forward(inputs) * self.scale


class ResNet9(nn.Module):
    """Eight 3x3 convolutions with two residual blocks and one linear layer (after Page's DAWNBench entry, 2018)."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 64, logit_scale: float = 0.125) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(in_channels, width, pool=False),
            _block(width, 2 * width, pool=True),
            Residual(2 * width),
            _block(2 * width, 4 * width, pool=True),
            _block(4 * width, 8 * width, pool=True),
            Residual(8 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.classifier = ScaledLinear(8 * width, num_classes, logit_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W), H and W at least 8."""
        logits: Tensor = self.classifier(self.features(images))
        return logits
