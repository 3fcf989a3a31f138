"""The networks of Keskar et al., On Large-Batch Training for Deep Learning (arXiv:1609.04836), appendix B."""

from torch import Tensor, nn

from largebatch.jobs.models.small import mlp


def f1(num_classes: int, in_features: int, width: int = 512, depth: int = 5) -> nn.Module:
    """F1: `depth` hidden layers of `width`, each followed by batch-norm and ReLU."""
    return mlp(num_classes, in_features, width, depth, batch_norm=True)


def c1(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """C1 (CIFAR-10) and C3 (CIFAR-100): two 5x5 convolutions of 64, then 384 and 192 with dropout 0.5."""

    def convolution(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]

    def dense(features: int, width: int) -> list[nn.Module]:
        return [nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Dropout(0.5)]

    side = (((image_size + 1) // 2) + 1) // 2
    return nn.Sequential(
        *convolution(in_channels),
        *convolution(64),
        nn.Flatten(),
        *dense(64 * side * side, 384),
        *dense(384, 192),
        nn.Linear(192, num_classes),
    )


VGG16: tuple[int | str, ...] = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


class VGG(nn.Module):
    """C2 (CIFAR-10) and C4 (CIFAR-100): VGG-16's convolutions with batch-norm, dropout 0.3 and 0.4 between, one hidden layer of 512."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = in_channels, image_size
        for position, width in enumerate(VGG16):
            if width == "pool":
                layers.append(nn.MaxPool2d(2, 2))
                side //= 2
                continue
            layers += [nn.Conv2d(channels, int(width), 3, padding=1), nn.BatchNorm2d(int(width)), nn.ReLU(inplace=True)]
            channels = int(width)
            if VGG16[position + 1] != "pool":  # after every convolution of a stage but its last
                layers.append(nn.Dropout(0.3 if channels == 64 else 0.4))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(512 * side * side, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(512, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W), H and W at least 32."""
        logits: Tensor = self.classifier(self.features(images))
        return logits
