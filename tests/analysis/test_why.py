"""`groups.why`: what holds a part of a model, where, and what would free it; names that stand for groups."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.why import Why


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.b(self.a(x).relu())).mean((2, 3)))


@pytest.fixture
def groups() -> fxprune.Groups:
    return fxprune.find_groups(fxprune.trace(Residual(), torch.zeros(1, 3, 8, 8)))


def test_a_layer_of_two_groups(groups: fxprune.Groups) -> None:
    why = groups.why("b")
    assert why.groups == {
        "stem": ("b.weight[dim 0] (8 of 8)", "b.bias[dim 0] (8 of 8)"),
        "a": ("b.weight[dim 1] (6 of 6)",),
    }
    assert "b.weight[dim 0] (8 of 8) belongs to group stem" in str(why)
    assert why.held == ()


def test_what_an_output_holds(groups: fxprune.Groups) -> None:
    (weight, bias) = groups.why("head").held
    assert (weight.dim.reason, weight.way) == ("model output", ("head", "output"))
    assert weight.code.endswith("(Residual.forward)")
    assert "test_why.py:" in weight.code
    assert "outputs keep their widths" in weight.remedy
    assert bias.dim.tensor == "head.bias"


def test_modules_and_parameters(groups: fxprune.Groups) -> None:
    model = groups.graph.model
    assert str(groups.why(model.b)) == str(groups.why("b"))
    assert [h.dim.dim for h in groups.why("a.weight").held] == [2, 3]  # its kernel
    with pytest.raises(fxprune.InputError, match="nothing in the model has the name; seen: nobody"):
        groups.why("nobody")


def test_what_the_caller_ignored() -> None:
    groups = fxprune.find_groups(fxprune.trace(Residual(), torch.zeros(1, 3, 8, 8)), ignored="a")
    assert {h.remedy for h in groups.why("a").held if h.dim.dim == 0} == {"take it out of ignored="}


def test_a_cache_among_the_outputs_is_named() -> None:
    class Config:
        use_cache = True

    model = Residual()
    model.config = Config()  # type: ignore[assignment]
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 3, 8, 8)))
    assert "model.config.use_cache = False" in groups.why("head").held[0].remedy


def test_attention_that_can_be_untied() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    groups = fxprune.find_groups(fxprune.trace(layer, torch.zeros(1, 3, 8)))
    remedies = {h.remedy for h in groups.why("self_attn.in_proj_weight").held}
    assert any(remedy.startswith("fxprune.untie_attention(model)") for remedy in remedies)


def test_layers_that_make_channels_are_keys(groups: fxprune.Groups) -> None:
    assert groups["b"].name == groups["b.weight"].name == "stem"
    assert "b" not in groups  # iteration and membership are of groups' own names
    assert groups.plan({"b": [0, 1]}) == groups.plan({"stem": [0, 1]})
    with pytest.raises(fxprune.InputError, match="two names of one group"):
        groups.plan({"b": [0, 1], "stem": [0]})
    with pytest.raises(KeyError, match=r"no such prunable group; seen: head; .*groups.why\(name\)"):
        groups["head"]


def test_tables_for_notebooks(groups: fxprune.Groups) -> None:
    html = groups._repr_html_()
    assert "<b>Groups(2 groups, 14 channels" in html
    assert "stem.weight<br>b.weight" in html
    assert "what would free it" in groups.why("head")._repr_html_()


def parametrized(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), layer, nn.ReLU(), nn.Linear(10, 3))


@pytest.mark.parametrize("orthogonal_map", ["householder", "cayley", "matrix_exp"])
def test_a_weight_that_a_parametrization_without_a_rule_computes(orthogonal_map: str) -> None:
    model = parametrized(nn.utils.parametrizations.orthogonal(nn.Linear(8, 10), orthogonal_map=orthogonal_map))
    groups = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 6)))
    note = "; it computes 2.weight: torch.nn.utils.parametrize.remove_parametrizations makes that a parameter"
    reasons = {d.tensor: d.reason for d in groups.fixed if note in d.reason}
    assert {"0.weight", "0.bias", "2.parametrizations.weight.original"} <= reasons.keys()
    assert all(reason.count(note) == 1 for reason in reasons.values())
    assert all(d.reason in ("model input", "model output") for d in groups.fixed if d.tensor not in reasons)
    remedies = {h.remedy for h in groups.why("2.parametrizations.weight.original").held}
    assert remedies == {'torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule("2"), "weight")'}
    torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule("2"), "weight")
    freed = fxprune.find_groups(fxprune.trace(model, torch.zeros(1, 6)))
    assert [(g.name, g.size) for g in freed] == [("0", 8), ("2", 10)]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_parametrization_that_has_rules_needs_no_remedy(norm: Callable[[nn.Module], nn.Module]) -> None:
    groups = fxprune.find_groups(fxprune.trace(parametrized(norm(nn.Linear(8, 10))), torch.zeros(1, 6)))
    assert {d.reason for d in groups.fixed} == {"model input", "model output"}


class Transform(nn.Module):
    """Adds the identity to a matrix that it computes, as networks for clouds of points do."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.a, self.b, self.k = nn.Linear(6, 8), nn.Linear(8, 64), 8
        self.out = nn.Linear(8, 3)
        if buffer:
            self.register_buffer("identity", torch.eye(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        identity = getattr(self, "identity", None)
        y = self.b(h.relu())
        if identity is None:
            y = (y + torch.eye(self.k).flatten()).view(-1, self.k, self.k)
        else:
            y = y.view(-1, *identity.shape) + identity
        return self.out((h[:, None] @ y)[:, 0])  # type: ignore[no-any-return]


class Cache(nn.Module):
    """Writes what it computes into a cache: in a list, a buffer, or one that it makes anew if it is short."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        if buffer:
            self.register_buffer("cache", torch.zeros(2, 9, 8))
        else:
            self.caches = [torch.zeros(2, 9, 8)]

    def forward(self, x: Tensor) -> Tensor:
        cache = self.caches[0] if hasattr(self, "caches") else self.cache
        cache[:, : x.shape[1]] = self.a(x)
        return self.out(cache[:, : x.shape[1]])  # type: ignore[no-any-return]


class Renewed(Cache):
    def forward(self, x: Tensor) -> Tensor:
        if self.cache.shape[1] < x.shape[1]:
            self.cache = torch.zeros(2, x.shape[1], 8)
        return super().forward(x)


@pytest.mark.parametrize(
    ("held", "freed", "x", "layer", "remedy"),
    [
        (Transform(False), Transform(True), torch.randn(2, 6), "b", "register it as a buffer"),
        (Cache(False), Cache(True), torch.randn(2, 4, 6), "a", "register it as a buffer"),
        (Renewed(True), Cache(True), torch.randn(2, 4, 6), "a", "write into cache"),
    ],
)
def test_a_tensor_of_the_code_holds_channels_until_the_remedy(
    held: nn.Module, freed: nn.Module, x: Tensor, layer: str, remedy: str
) -> None:
    def rows(model: nn.Module) -> tuple[fxprune.Groups, Why]:
        groups = fxprune.find_groups(fxprune.trace(model.eval(), x))
        return groups, groups.why(f"{layer}.weight")

    _, why = rows(held)
    assert {h.dim.dim for h in why.held if remedy in h.remedy} == {0}
    groups, why = rows(freed)
    assert not any(h.dim.dim == 0 for h in why.held)
    plan = groups.plan({g.name: range(1, g.size, 2) for g in groups})
    assert fxprune.verify(freed, plan, x) < 1e-9


class OuterProduct(nn.Module):
    """Every channel with every other one, in one row: neither side of that grid can shrink alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(36, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b((y.unsqueeze(2) * y.unsqueeze(1)).flatten(1))  # type: ignore[no-any-return]


def test_a_grid_of_which_no_factor_shrinks_says_so() -> None:
    groups = fxprune.find_groups(fxprune.trace(OuterProduct(), torch.zeros(2, 5)))
    assert not len(groups)
    assert {f.reason for f in groups.fixed if f.count > 5} == {"no factor of the grid 6×6 may shrink"}


class InAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 1), [nn.Conv2d(8, 8, 1)], nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(self.stem(x))
        return self.head(x)


def test_a_layer_that_the_model_does_not_know() -> None:
    net = InAList()
    held = fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8))).why("stem").held[0]
    assert "a parameter of no module" in held.dim.reason
    assert "nn.ModuleList" in held.remedy
    net.blocks = nn.ModuleList(net.blocks)  # type: ignore[assignment]
    assert fxprune.find_groups(fxprune.trace(net, torch.zeros(1, 3, 8, 8))).why("stem").groups


class Codebook(nn.Module):
    """Its statistics follow the data in training, by assignments."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.out = nn.Linear(5, 16), nn.Linear(16, 3)
        self.mean: Tensor
        self.total: Tensor
        for name in ("mean", "total"):
            self.register_buffer(name, torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        z = self.e(x)
        y = z - self.mean
        if self.training:
            self.total = self.total * 0.9 + z.detach().mean(0) * 0.1
            self.mean = self.total / 2
        return self.out(torch.relu(y))


def test_a_buffer_that_is_assigned_anew_is_named_and_not_what_is_put_into_it() -> None:
    why = str(fxprune.find_groups(fxprune.trace(Codebook(), torch.randn(4, 5))).why("e"))
    assert "16 indices stay: the forward's code may put another tensor in its place" in why
    assert "write into mean (copy_, slices)" in why
    assert "dropped by the recorded forward" not in why
