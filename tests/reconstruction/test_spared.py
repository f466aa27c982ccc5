"""What a layer gives is not computed where nobody looks at it, and nothing comes out otherwise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.module.batches import batches
from fxprune.reconstruction import pair, spared
from fxprune.reconstruction.layers import first_run
from fxprune.reconstruction.spared import Spared, Sparing


class Block(nn.Module):
    """Three convolutions; `step` is what follows the second, which is fitted alone."""

    def __init__(self, step: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs[0](x)
        return self.convs[2](self.step(self, self.convs[1](x.relu()), x))


def through_a_copy(_: Any, y: Tensor, x: Tensor) -> Tensor:
    held = torch.zeros_like(x)
    held[:, :3] = y[:, :3]
    return y + held


def by_number(_: Any, y: Tensor, x: Tensor) -> Tensor:
    return y + x if float(y.mean()) > 1e-9 else y - x


def by_numpy(_: Any, y: Tensor, x: Tensor) -> Tensor:
    return y + torch.from_numpy(y.numpy() * 0.5)


SPARED = {"plain": lambda _m, y, _x: y.relu(), "shortcut": lambda _m, y, x: (y + x).relu_()}
LOOKED_AT = {
    "added to itself": lambda _m, y, _x: y + y.tanh(),
    "written to": through_a_copy,
    "number": by_number,
    "numpy": by_numpy,
    "again": lambda m, y, x: y + m.convs[1](y.relu()),
}


def refitted(step: Any, monkeypatch: pytest.MonkeyPatch, sparing: bool) -> tuple[dict[str, Tensor], list[bool]]:
    """The weights after a reconstruction, and whether sparing went on after each run of the pruned model."""
    told: list[bool] = []
    run = Sparing.run

    def watched(self: Sparing, forward: Any, weight: int, watch: Any) -> Any:
        found = run(self, forward, weight, watch) if sparing else forward()
        told.append(self._on)
        return found

    monkeypatch.setattr(Sparing, "run", watched)
    monkeypatch.setattr(pair, "WORTH", 0)
    torch.manual_seed(0)
    model, data = Block(step).eval(), [torch.randn(8, 6, 6, 6) for _ in range(3)]
    groups = fxprune.find_groups(fxprune.trace(model, data[0]))
    plan = groups.plan({g.name: range(g.size // 2) for g in groups})
    small = fxprune.rewrite(model, plan)
    fxprune.reconstruct(model, small, plan, data)
    monkeypatch.undo()
    return small.state_dict(), told


@pytest.mark.parametrize("name", [*SPARED, *LOOKED_AT])
def test_fits_are_the_same_as_where_all_is_computed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    step = {**SPARED, **LOOKED_AT}[name]
    found, told = refitted(step, monkeypatch, True)
    wanted, _ = refitted(step, monkeypatch, False)
    assert told
    assert all(told) == (name in SPARED)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7)


def test_a_spared_convolution_is_not_computed_and_a_looked_at_one_is() -> None:
    weight, x = torch.randn(2, 2, 1, 1), torch.randn(1, 2, 3, 3)
    sparing, watched = Sparing(), list[Any]()
    y = sparing.run(lambda: torch.conv2d(x, weight), id(weight), watched.append)
    assert y.shape == (1, 2, 3, 3)
    assert not y.any()
    assert isinstance(watched[0], spared.Spared)
    assert watched[1] is None
    assert sparing.run(lambda: float(torch.conv2d(x, weight).sum()), id(weight), watched.append) != 0
    assert torch.equal(
        sparing.run(lambda: torch.conv2d(x, weight), id(weight), watched.append), torch.conv2d(x, weight)
    )


def test_an_error_of_the_model_is_the_models() -> None:
    def fails() -> Tensor:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        Sparing().run(fails, 0, lambda _: None)


def test_the_first_run_keeps_no_activations() -> None:
    model = Block(SPARED["plain"])
    names = {f"convs.{i}.weight" for i in range(3)}
    run = first_run(model, names, next(iter(batches(model, [torch.randn(2, 6, 5, 5)]))))
    assert {name for name, _ in run.calls} == names
    for kept in run.calls.values():
        assert kept.seen.x.shape == kept.seen.output.shape == (2, 6, 5, 5)
        assert kept.seen.x.untyped_storage().nbytes() <= 8


LAYOUTS = [
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.contiguous_format),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.channels_last),
    (nn.ConvTranspose2d(4, 6, 2, stride=2), torch.contiguous_format),
]


@pytest.mark.parametrize(("conv", "layout"), LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_lie_as_the_outputs_would(conv: nn.Module, layout: torch.memory_format, dtype: torch.dtype) -> None:
    conv, x = conv.to(dtype), torch.rand(2, 4, 9, 7, dtype=dtype).to(memory_format=layout)
    with torch.no_grad(), Spared(id(conv.weight)):
        zeros = conv(x)
    given = conv(x)
    assert not zeros.any()
    assert (zeros.shape, zeros.stride(), zeros.dtype) == (given.shape, given.stride(), given.dtype)
