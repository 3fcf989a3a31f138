"""Two towers, one for images and one for texts, whose embeddings meet in one space (after Radford et al., arXiv:2103.00020)."""

import math

import torch
from torch import Tensor, nn

from largebatch.jobs.models.towers.image import image_tower
from largebatch.jobs.models.transformer import NORM_EPSILON, Block, rotations

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
"""Radford et al.'s: where the scale begins, and what it is held below."""


class TextTower(nn.Module):
    """A transformer over tokens, averaged over those that are there: (N, T) to (N, width); token 0 is padding."""

    def __init__(self, vocabulary_size: int, sequence_length: int, width: int, num_heads: int = 2, depth: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, causal=False, dropout=0.0) for _ in range(depth))
        self.norm = nn.RMSNorm(width, NORM_EPSILON)
        self.rotation: Tensor
        self.register_buffer("rotation", rotations(sequence_length, width // num_heads), persistent=False)

    def forward(self, tokens_NT: Tensor) -> Tensor:
        """(N, width)."""
        hidden_NTW = self.embedding(tokens_NT)
        for block in self.blocks:
            hidden_NTW = block(hidden_NTW, self.rotation)
        is_there_NT1 = (tokens_NT != 0)[:, :, None]
        mean: Tensor = (self.norm(hidden_NTW) * is_there_NT1).sum(1) / is_there_NT1.sum(1).clamp(min=1)
        return mean


class TwoTowers(nn.Module):
    """An image tower, a text tower, a linear layer behind each, and the scale of similarities, which is learned.

    Args:
        width: channels of the first convolution, and half the features of the text tower.
        embedding_size: numbers of an embedding.
    """

    def __init__(self, in_channels: int, vocabulary_size: int, sequence_length: int, width: int = 32, embedding_size: int = 64) -> None:
        super().__init__()
        self.image_tower, self.text_tower = image_tower(in_channels, width), TextTower(vocabulary_size, sequence_length, 2 * width)
        self.image_projection, self.text_projection = (nn.Linear(size * width, embedding_size, bias=False) for size in (4, 2))
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def forward(self, images: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Embeddings (N, embedding_size) of images (N, C, H, W) and of tokens (N, T), and the image tower's representation."""
        representation = self.image_tower(images)
        first, second = self.image_projection(representation), self.text_projection(self.text_tower(tokens))
        log_scale = self.log_scale.clamp(max=math.log(LARGEST_SCALE))
        return {"first": first, "second": second, "log_scale": log_scale, "representation": representation}
