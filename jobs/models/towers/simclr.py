"""One encoder for both views of an image, and a projection that is left out when it is used (Chen et al., arXiv:2002.05709, section 4.2)."""

from torch import Tensor, nn

from largebatch.jobs.models.towers.image import image_tower


class SimCLR(nn.Module):
    """An image tower, and a projection of one hidden layer.

    Args:
        width: channels of the first convolution.
        embedding_size: numbers of an embedding.
    """

    def __init__(self, in_channels: int, width: int = 32, embedding_size: int = 64) -> None:
        super().__init__()
        features = 4 * width
        self.encoder = image_tower(in_channels, width)
        self.projection = nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, embedding_size))

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Embeddings (N, embedding_size) of two views (N, C, H, W), and the representation (N, 4 * width) of the first."""
        representation = self.encoder(first)
        return {"first": self.projection(representation), "second": self.projection(self.encoder(second)), "representation": representation}
