"""A transformer of our own: a decoder that predicts the next token, or an encoder that fills in masked ones.

Pre-norm blocks with rotary positions (Su et al., arXiv:2104.09864), RMS norm (Zhang and Sennrich, arXiv:1910.07467), torch's scaled
dot-product attention, and a GELU feed-forward of four times the width; embedding and head share no weights, so that each can have its own
optimizer. Letters: N sequences, T tokens, W width, H heads, D = W / H.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-6
"""Given, for torch's own default differs with the precision."""


class Transformer(nn.Module):
    """Logits (N, T, vocabulary) of tokens (N, T). Args: causal: whether a position sees only what stands before it."""

    def __init__(
        self, vocabulary_size: int, sequence_length: int, width: int, depth: int, num_heads: int, causal: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % num_heads or width // num_heads % 2:
            raise ValueError(f"width {width} must be an even number of features for each of {num_heads} heads")
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, causal, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(width, NORM_EPSILON)
        self.head = nn.Linear(width, vocabulary_size, bias=False)
        self.sequence_length, self.causal = sequence_length, causal
        self.rotation: Tensor
        self.register_buffer("rotation", rotations(sequence_length, width // num_heads), persistent=False)
        self._initialise(depth)

    def _initialise(self, depth: int) -> None:
        """GPT-2's: normal with 0.02, what is added to the residual stream smaller by the root of the number of additions."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_added = name.endswith(("attention.out.weight", "feed_forward.out.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if is_added else 0.02)

    def forward(self, tokens_NT: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits.

        Args: attention_mask: (N, T), 0 where a token is padding that none may see; at least one of each sequence is not. A causal model reads none:
            padding stands behind all that counts.
        Raises: ValueError for sequences longer than `sequence_length`.
        """
        length = tokens_NT.shape[1]
        if length > self.sequence_length:
            raise ValueError(f"sequences of {length} tokens are longer than the model's {self.sequence_length} positions")
        hidden_NTW = self.embedding(tokens_NT)
        rotation = self.rotation[:length]
        masks = () if attention_mask is None or self.causal else (attention_mask.bool()[:, None, None, :],)
        for block in self.blocks:
            hidden_NTW = block(hidden_NTW, rotation, *masks)
        logits: Tensor = self.head(self.norm(hidden_NTW))
        return logits


def decoder(vocabulary_size: int, sequence_length: int, width: int = 128, depth: int = 4, num_heads: int = 4, dropout: float = 0.0) -> Transformer:
    """A transformer that predicts the next token. Raises: ValueError."""
    return Transformer(vocabulary_size, sequence_length, width, depth, num_heads, causal=True, dropout=dropout)


def encoder(vocabulary_size: int, sequence_length: int, width: int = 128, depth: int = 4, num_heads: int = 4, dropout: float = 0.0) -> Transformer:
    """A transformer that fills in masked tokens. Raises: ValueError."""
    return Transformer(vocabulary_size, sequence_length, width, depth, num_heads, causal=False, dropout=dropout)


class Block(nn.Module):
    """Attention and feed-forward, each added to what came in."""

    def __init__(self, width: int, num_heads: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.RMSNorm(width, NORM_EPSILON), nn.RMSNorm(width, NORM_EPSILON)
        self.attention = Attention(width, num_heads, causal)
        self.feed_forward = FeedForward(width)
        self.attention_dropout, self.feed_forward_dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, hidden_NTW: Tensor, rotation: Tensor, is_seen: Tensor | None = None) -> Tensor:
        """(N, T, W) to the same shape. Args: is_seen: see `Attention`."""
        hidden_NTW = hidden_NTW + self.attention_dropout(self.attention(self.attention_norm(hidden_NTW), rotation, is_seen))
        hidden_NTW = hidden_NTW + self.feed_forward_dropout(self.feed_forward(self.feed_forward_norm(hidden_NTW)))
        return hidden_NTW


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, width: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, hidden_NTW: Tensor, rotation: Tensor, is_seen: Tensor | None = None) -> Tensor:
        """(N, T, W) to the same shape. Args: is_seen: (N, 1, 1, T), which positions may be seen; None: all."""
        num_sequences, length, width = hidden_NTW.shape
        pieces = self.queries_keys_values(hidden_NTW).view(num_sequences, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries_NHTD, keys_NHTD, values_NHTD = pieces
        attended_NHTD = functional.scaled_dot_product_attention(
            rotated(queries_NHTD, rotation), rotated(keys_NHTD, rotation), values_NHTD, attn_mask=is_seen, is_causal=self.causal
        )
        attended: Tensor = self.out(attended_NHTD.transpose(1, 2).reshape(num_sequences, length, width))
        return attended


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden_NTW: Tensor) -> Tensor:
        """(N, T, W) to the same shape."""
        output: Tensor = self.out(functional.gelu(self.into(hidden_NTW)))
        return output


def rotations(sequence_length: int, head_width: int) -> Tensor:
    """(T, D / 2, 2) cosine and sine of position times frequency."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.outer(torch.arange(sequence_length, dtype=torch.float64), frequencies)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def rotated(heads_NHTD: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys with each pair of features (i, i + D / 2) turned by its position's angle."""
    first, second = heads_NHTD.chunk(2, dim=-1)
    cosine, sine = rotation.to(heads_NHTD.dtype).unbind(-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
