"""A small convolutional network that turns an image into numbers: the image tower of our contrastive models."""

from torch import nn


def image_tower(in_channels: int, width: int) -> nn.Sequential:
    """Three 3x3 convolutions with batch-norm and ReLU, the first two with a stride of 2: (N, C, H, W), H and W at least 8, to (N, 4 * width)."""
    layers: list[nn.Module] = []
    for out_channels, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        layers += [nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        in_channels = out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
