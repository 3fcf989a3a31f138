"""Models of tokens that see different parts of a sequence, named by entry points in tests."""

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 9


class Convolved(nn.Module):
    """A convolution along the sequence. Args: right: how many tokens after a position it sees; num_rows: tokens that its embedding has."""

    def __init__(self, right: int, num_rows: int = VOCABULARY) -> None:
        super().__init__()
        self.embedding, self.convolution, self.head = nn.Embedding(num_rows, 8), nn.Conv1d(8, 8, 3), nn.Linear(8, VOCABULARY)
        self._padding = (2 - right, right)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = functional.pad(self.embedding(tokens).transpose(1, 2), self._padding)
        logits: Tensor = self.head(self.convolution(hidden).transpose(1, 2))
        return logits


class Normalised(nn.Module):
    """A norm along the sequence: a position sees the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(VOCABULARY, 8), nn.InstanceNorm1d(8), nn.Linear(8, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.embedding(tokens).transpose(1, 2)).transpose(1, 2))
        return logits


class Recurrent(nn.Module):
    def __init__(self, bidirectional: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.recurrent = nn.GRU(8, 8, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(16 if bidirectional else 8, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.recurrent(self.embedding(tokens))[0])
        return logits


class Prefixed(nn.Module):
    """Attention that sees all of a sequence's first half, and nothing later from the second."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.attention, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 24), nn.Linear(8, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        is_seen = torch.ones(length, length, dtype=torch.bool).tril()
        is_seen[:, : length // 2] = True
        queries, keys, values = self.attention(self.embedding(tokens)).chunk(3, dim=-1)
        logits: Tensor = self.head(functional.scaled_dot_product_attention(queries, keys, values, attn_mask=is_seen))
        return logits


def prefixed() -> tuple[torch.utils.data.TensorDataset, torch.utils.data.TensorDataset]:
    """Sequences of 12 tokens; what stands in the first half is given, and does not count."""
    parts = []
    for size in (60, 20):
        tokens = torch.randint(VOCABULARY, (size, 13), generator=torch.Generator().manual_seed(size))
        targets = tokens[:, 1:].clone()
        targets[:, :6] = -100
        parts.append(torch.utils.data.TensorDataset(tokens[:, :-1].contiguous(), targets))
        parts[-1].vocabulary_size, parts[-1].sequence_length = VOCABULARY, 12  # type: ignore[attr-defined]
    return parts[0], parts[1]


def tagged() -> tuple[torch.utils.data.TensorDataset, torch.utils.data.TensorDataset]:
    """Sequences of 12 tokens, each with a kind that both of its neighbours tell."""
    parts = []
    for size in (60, 20):
        tokens = torch.randint(VOCABULARY, (size, 12), generator=torch.Generator().manual_seed(size))
        parts.append(torch.utils.data.TensorDataset(tokens, (tokens.roll(1, 1) + tokens.roll(-1, 1)) % VOCABULARY))
        parts[-1].vocabulary_size, parts[-1].sequence_length = VOCABULARY, 12  # type: ignore[attr-defined]
    return parts[0], parts[1]
