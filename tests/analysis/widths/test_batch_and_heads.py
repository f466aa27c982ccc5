"""Attention of PyTorch's own over tokens that the model makes for each sample, where sample, heads and widths agree."""

import pytest
import torch
from torch import Tensor, nn

import fxprune


class ClassToken(nn.Module):
    """A learned token before those of the image: the batch is a dim that the model itself makes."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(3, width), nn.Parameter(torch.randn(1, 1, width))
        self.encoder = nn.TransformerEncoderLayer(width, heads, 32, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1)
        return self.head(self.encoder(x)[:, 0])


class Queries(nn.Module):
    """Learned queries look at the image, as in DETR."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.queries = nn.Linear(3, width), nn.Parameter(torch.randn(6, 1, width))
        self.attention, self.head = nn.MultiheadAttention(width, heads), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.embed(x).transpose(0, 1)
        queries = self.queries.repeat(1, x.shape[0], 1)
        return self.head(self.attention(queries, keys, keys)[0].mean(0))


@pytest.mark.parametrize("heads", ["head_dim", "num_heads"])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("kind", [ClassToken, Queries])
def test_no_batch_is_taken_for_heads(kind: type[nn.Module], batch: int, heads: str) -> None:
    """A batch of 4 was taken for the 4 heads, or 4 channels of each, and the whole stream was held."""
    torch.manual_seed(0)
    model = kind().eval()
    result = fxprune.prune(model, torch.randn(batch, 7, 3), 0.5, heads=heads)
    kept = result.plan.kept_counts()
    assert result.model.embed.weight.shape == (8, 3)
    assert 2 in kept.values()  # of the four heads, or of their four channels
    assert all(len(result.plan.groups[name].kept) < result.plan.groups[name].size for name in kept)
    assert result.report.deviation is None or result.report.deviation < 1e-6
    with torch.no_grad():
        assert result.model(torch.randn(5, 9, 3)).shape == (5, 5)
