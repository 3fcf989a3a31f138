"""Your own data and models for other tasks than classification, named in pairs.yaml, table.yaml and focal.yaml."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import largebatch

CENTRES = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
MIXING = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))


def load_pairs(num_train: int = 4000) -> tuple[TensorDataset, TensorDataset]:
    """Pairs (first, second): eight numbers, and twelve that another instrument would measure of the same."""

    def part(num_samples: int, seed: int) -> TensorDataset:
        draws = torch.Generator().manual_seed(seed)
        first = CENTRES[torch.randint(40, (num_samples,), generator=draws)] + torch.randn(num_samples, 8, generator=draws)
        return TensorDataset(first, (first @ MIXING).tanh() + 0.2 * torch.randn(num_samples, 12, generator=draws))

    return part(num_train, seed=2), part(500, seed=3)


class Towers(nn.Module):
    """One network for each side, and the logarithm of the scale that similarities are multiplied by."""

    def __init__(self, width: int, embedding_size: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, embedding_size)) for size in (8, 12))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two embeddings (n, embedding_size), of any length, and the scale's logarithm."""
        return self.first(first), self.second(second), self.log_scale


def build_towers(width: int = 64, embedding_size: int = 16) -> nn.Module:
    """The model of pairs.yaml."""
    return Towers(width, embedding_size)


def load_table(num_train: int = 2000) -> tuple[TensorDataset, TensorDataset]:
    """Rows of eight numbers, and the two that are to be told from them."""

    def part(num_samples: int, seed: int) -> TensorDataset:
        rows = torch.randn(num_samples, 8, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(rows, torch.stack([rows[:, :4].sum(1).sin(), rows[:, 4:].square().mean(1)], dim=1))

    return part(num_train, seed=4), part(500, seed=5)


def build_net(num_outputs: int, width: int = 64) -> nn.Module:
    """The model of table.yaml; the data say how many outputs there are."""
    return nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, num_outputs))


class Focal(largebatch.Task):
    """A loss of your own (Lin et al., arXiv:1708.02002): what is classified well counts less."""

    headline = largebatch.Metric("accuracy", "higher", is_fraction=True)

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = gamma

    def loss_sum(self, model, batch):  # type: ignore[no-untyped-def]
        """A sum over the samples, never a mean."""
        inputs, labels = batch
        losses = functional.cross_entropy(model(inputs), labels, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).sum()

    def metric_sums(self, model, batch):  # type: ignore[no-untyped-def]
        """Sums, which are divided by the number of samples at the end."""
        inputs, labels = batch
        return {"accuracy": (model(inputs).argmax(1) == labels).sum()}
