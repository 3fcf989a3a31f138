"""The model. Put your own in the place of what `build` returns: any nn.Module from tokens (n, t) to logits (n, t, vocabulary_size)."""

from torch import Tensor, nn


class Recurrent(nn.Module):
    """An embedding, a recurrent layer, and the logits of each next token."""

    def __init__(self, vocabulary_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of what follows each token."""
        states, _ = self.recurrent(self.embedding(tokens))
        logits: Tensor = self.head(states)
        return logits


def build(vocabulary_size: int, width: int = 64) -> nn.Module:
    """`vocabulary_size` comes from the data, `width` from the recipe's `model.arguments`."""
    return Recurrent(vocabulary_size, width)
