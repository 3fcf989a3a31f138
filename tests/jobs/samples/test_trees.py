"""Trees of tensors."""

import torch

from largebatch.jobs.samples.trees import leaves, map_first


def test_the_first_tensor_is_first_by_place() -> None:
    image = torch.ones(2, 3)
    doubled = map_first(lambda leaf: 2 * leaf, {"input": (image, image), "target": image})
    assert [float(leaf.sum()) for leaf in leaves(doubled)] == [12.0, 6.0, 6.0]
