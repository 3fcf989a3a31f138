"""The weighted vote of the nearest neighbours, against one that is written out sample by sample in float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from largebatch.jobs.tasks.nearest_neighbours import Labelled, knn_accuracy


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(size: int, seed: int, classes: tuple[int, ...] = (2, 3, 7)) -> Labelled:
    """Points around a centre for each class, so wide that many are told wrong."""
    numbers = torch.randint(len(classes), (size,), generator=generator(seed))
    centres = torch.randn(len(classes), 6, generator=generator(99))
    features = centres[numbers] + 1.2 * torch.randn(size, 6, generator=generator(seed + 1))
    return Labelled(functional.normalize(features, dim=1), torch.tensor(classes)[numbers])


def expected(samples: Labelled, references: Labelled, neighbours: int) -> float:
    hits = 0
    for feature, label in zip(samples.features.double(), samples.labels.tolist(), strict=True):
        cosines = [float((feature * other).sum()) for other in references.features.double()]
        nearest = sorted(range(len(cosines)), key=lambda index: (-cosines[index], index))[:neighbours]
        votes: dict[int, float] = {}
        for index in nearest:
            own = int(references.labels[index])
            votes[own] = votes.get(own, 0.0) + math.exp(cosines[index] / 0.07)
        hits += max(sorted(votes), key=lambda own: votes[own]) == label
    return hits / len(samples.labels)


@pytest.mark.parametrize("neighbours", [1, 5, 30, 1000])
def test_it_is_the_papers_vote(neighbours: int) -> None:
    """More samples than one block has; more neighbours than references are all of them."""
    samples, references = labelled(300, 1), labelled(120, 2)
    found = knn_accuracy(samples, references, neighbours)
    assert 0.4 < found < 0.95
    assert found == pytest.approx(expected(samples, references, neighbours), abs=1e-9)


def test_of_equals_the_first_vote_and_of_equal_votes_the_lowest_class_wins() -> None:
    point = torch.tensor([[1.0, 0.0]])
    three = Labelled(point.expand(6, 2), torch.tensor([4, 4, 1, 1, 1, 1]))
    assert [knn_accuracy(Labelled(point, torch.tensor([label])), three, 3) for label in (4, 1)] == [1.0, 0.0]
    assert [knn_accuracy(Labelled(point, torch.tensor([label])), three, 4) for label in (4, 1)] == [0.0, 1.0]


def test_a_class_that_no_reference_has_is_never_told() -> None:
    samples = labelled(20, 1, classes=(9,))
    assert knn_accuracy(samples, labelled(50, 2), 5) == 0.0


def test_how_samples_are_cut_changes_nothing() -> None:
    samples, references = labelled(300, 1), labelled(120, 2)
    parts = [slice(0, 7), slice(7, 290), slice(290, 300)]

    def of(part: slice) -> Tensor:
        return torch.tensor(knn_accuracy(Labelled(samples.features[part], samples.labels[part]), references, 10) * len(samples.labels[part]))

    assert float(torch.stack([of(part) for part in parts]).sum() / 300) == pytest.approx(knn_accuracy(samples, references, 10))
