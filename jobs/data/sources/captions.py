"""Images of classes with captions of a few words, as bytes: pairs for a contrastive task."""

import torch
from torch import Tensor

from largebatch.jobs.samples.keyed_random import integers, key

TEMPLATES = ("a photo of a {}", "a blurry photo of a {}", "a small picture of the {}", "this is a {}", "there is a {} here", "a {} in the middle")
"""Each image has one of them, the same in every run."""
CIFAR10_CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VOCABULARY_SIZE = 256
"""Bytes; 0, which is of no text, is padding."""
LENGTH = max(len(template.format(word)) for template in TEMPLATES for word in CIFAR10_CLASSES)


def captions(labels: Tensor, part: str) -> Tensor:
    """(n, LENGTH) int64: the bytes of each sample's caption. Args: part: which part the samples are of; another draws other templates."""
    texts = [template.format(word) for template in TEMPLATES for word in CIFAR10_CLASSES]
    table = torch.tensor([list(text.encode().ljust(LENGTH, b"\0")) for text in texts])
    templates = integers(key("captions", part), torch.arange(len(labels)), 0, len(TEMPLATES) - 1)
    return table[templates * len(CIFAR10_CLASSES) + labels]
