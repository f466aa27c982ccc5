"""Results that the recorded forward drops: where only their shape counts, and where another forward may return them."""

import torch
from torch import Tensor, nn

import fxprune


class Heads(nn.Module):
    """Two heads: the second one runs always and is returned in training only."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.a, self.b, self.always = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), always
        self.main, self.aux = nn.Conv2d(16, 6, 1), nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = self.b(self.a(x).relu()).relu()
        y = self.main(h)
        if self.always:
            aux = self.aux(h)
            return (y, aux) if self.training else y
        return (y, self.aux(h)) if self.training else y


def test_a_head_that_is_returned_in_training_only_keeps_its_classes() -> None:
    for always in (False, True):
        model, x = Heads(always).eval(), torch.rand(2, 3, 9, 9)
        groups = fxprune.find_groups(fxprune.trace(model, x))
        assert [(g.name, g.size) for g in groups] == [("a", 16), ("b", 16), ("aux.0", 8)]
        small = fxprune.rewrite(model, groups.plan({"a": [0], "b": [1, 2], "aux.0": [3]}))
        assert [tuple(t.shape) for t in small.train()(x)] == [(2, 6, 5, 5)] * 2
        if always:
            assert any(
                "dropped by the recorded forward" in f.reason for f in groups.fixed if f.tensor == "aux.2.weight"
            )


class Shaped(nn.Module):
    """One channel is selected; its values count, or its shape alone."""

    def __init__(self, values: bool) -> None:
        super().__init__()
        self.a, self.b, self.values = nn.Linear(5, 32), nn.Linear(32, 7), values
        self.position = nn.Parameter(torch.rand(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        one = x[:, :, -1]
        x = x + self.position[: one.shape[1]]
        return self.b(x + one[..., None] if self.values else x)  # type: ignore[no-any-return]


def test_an_index_counts_where_its_values_do() -> None:
    for values, names in ((True, []), (False, ["a"])):
        groups = fxprune.find_groups(fxprune.trace(Shaped(values).eval(), torch.rand(1, 9, 5)))
        assert [g.name for g in groups] == names
        reasons = {f.reason for f in groups.fixed if (f.tensor, f.dim) == ("a.weight", 0)}
        assert reasons == ({"one index is taken by the model's code"} if values else set())
