"""The transformer: causal where it should be, relative in its positions, and learnable."""

import pytest
import torch
from torch import nn

from largebatch.jobs.models.transformer import Transformer, rotated, rotations


def model(causal: bool = True, **options: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(**{"vocabulary_size": 50, "sequence_length": 16, "width": 32, "depth": 2, "num_heads": 4, **options}, causal=causal)


@pytest.mark.parametrize("causal", [True, False])
def test_what_a_position_sees(causal: bool) -> None:
    tokens = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 50
    with torch.no_grad():
        before, after = model(causal)(tokens), model(causal)(changed)
    differs = (before != after).any(dim=-1)
    assert before.shape == (2, 16, 50)
    assert bool(differs[:, 9:].all())
    assert bool(differs[:, :9].any()) is not causal


def test_rotations_turn_by_the_distance_alone() -> None:
    """Dot products of rotated queries and keys depend on the difference of their positions."""
    table = rotations(32, 8).double()
    query, key = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    products = rotated(query.expand(1, 1, 32, 8), table)[0, 0] @ rotated(key.expand(1, 1, 32, 8), table)[0, 0].T
    for offset in range(-5, 6):
        diagonal = products.diagonal(offset)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-6)
    assert not torch.allclose(products.diagonal(1)[0], products.diagonal(2)[0], atol=1e-3)


def test_it_begins_with_the_loss_of_guessing() -> None:
    tokens = torch.randint(0, 50, (8, 16), generator=torch.Generator().manual_seed(3))
    loss = nn.functional.cross_entropy(model()(tokens).reshape(-1, 50), tokens.reshape(-1))
    assert abs(float(loss.detach()) - torch.log(torch.tensor(50.0)).item()) < 0.1


def test_shorter_sequences_pass_and_longer_are_refused() -> None:
    assert model()(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 50)
    with pytest.raises(ValueError, match="17 tokens are longer than the model's 16 positions"):
        model()(torch.zeros(1, 17, dtype=torch.int64))
    with pytest.raises(ValueError, match="even number of features"):
        model(width=36, num_heads=4)
