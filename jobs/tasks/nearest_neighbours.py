"""Accuracy of the weighted vote of the nearest neighbours: what a representation knows of classes that it was not trained on.

Wu et al., arXiv:1805.01978, section 3.4. Letters: N samples, R rows of a block, M references, D numbers of a representation, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256
"""Samples whose similarities to all references are held at once."""
TEMPERATURE = 0.07
"""Wu et al.'s."""


class Labelled(NamedTuple):
    """Representations of samples whose classes are known."""

    features: Tensor
    """(N, D), each of length 1."""
    labels: Tensor
    """(N,) whole numbers."""


def knn_accuracy(samples: Labelled, references: Labelled, neighbours: int) -> float:
    """The share of samples whose class has the heaviest vote, sum exp(cosine / 0.07) over the nearest references of that class.

    Of references that are equally near the first count, of classes with equal votes the lowest.
    Args: neighbours: how many references vote; all of them where there are fewer.
    """
    classes, class_M = torch.unique(references.labels, return_inverse=True)
    is_of_class_MC = functional.one_hot(class_M, len(classes)).double()
    hits = 0
    for features_RD, labels_R in zip(torch.split(samples.features, BLOCK), torch.split(samples.labels, BLOCK), strict=True):
        similarities_RM = features_RD @ references.features.T
        votes_RM = ((similarities_RM.double() - 1) / TEMPERATURE).exp() * _are_nearest(similarities_RM, neighbours)
        hits += int((classes[(votes_RM @ is_of_class_MC).argmax(1)] == labels_R).sum())
    return hits / len(samples.labels)


def _are_nearest(similarities_RM: Tensor, neighbours: int) -> Tensor:
    """Which references are a sample's nearest; `topk` alone says how near these are, not which of equals it takes."""
    count = min(neighbours, similarities_RM.shape[1])
    farthest_R1 = similarities_RM.topk(count, dim=1).values[:, -1:]
    are_nearer, are_equal = similarities_RM > farthest_R1, similarities_RM == farthest_R1
    places_left_R1 = count - are_nearer.sum(1, keepdim=True)
    return are_nearer | (are_equal & (are_equal.cumsum(1) <= places_left_R1))
