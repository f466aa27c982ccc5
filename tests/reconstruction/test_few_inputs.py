"""Few inputs: layers are fitted where that helps on others of them, and a report tells of it."""

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.statistics.different import different_inputs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    return nn.Sequential(*layers).eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def unchanged(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("data", [[images(1)], [images(1).expand(64, -1, -1, -1)] * 2, [torch.zeros(8, 2, 8, 8)] * 2])
def test_one_input_repairs_nothing(data: list[Tensor]) -> None:
    net = network()
    plan = fxprune.find_groups(fxprune.trace(net, images(1))).plan({"0": range(4)})
    small = fxprune.rewrite(net, plan)
    assert unchanged(fxprune.repair(net, small, plan, data), small)
    assert not unchanged(fxprune.repair(net, small, plan, [images(64)]), small)


def test_a_layer_that_no_fit_helps_on_other_inputs_stays() -> None:
    """Each batch tells the opposite of the other, and the weights as they are lie between."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).double()
    x = torch.randn(4, 4, dtype=torch.float64)
    plan = fxprune.find_groups(fxprune.trace(net, x)).plan({"0": range(6)})
    with torch.no_grad():  # channels that go give the one output to one batch, and its negative to the other
        net[0].weight[6:] = 0
        net[0].bias[6:] = 0
    small = fxprune.rewrite(net, plan)
    done = fxprune.reconstruct(net, small, plan, [x, -x], ridge=None)
    assert [r.ridge for r in done.layers] == [None]
    assert done.layers[0].before == done.layers[0].after


@pytest.mark.parametrize(("count", "said"), [(1, "1 different input;"), (8, "8 different inputs;"), (64, "")])
def test_a_report_tells_of_few_inputs(count: int, said: str) -> None:
    net, data = network(), list(images(count).split(8))
    lines = fxprune.prune(net, images(1), 0.5, data=[*data, *data]).report.warnings()
    assert [line for line in lines if "few hundred" in line] == [
        line for line in lines if said and line.startswith(f"the data hold {said}")
    ]
    assert bool(lines) == bool(said)


@pytest.mark.filterwarnings("ignore:the allowed widths leave")
def test_one_batch_is_planned_with_as_its_halves() -> None:
    net, x = network(), images(64)
    plans = [fxprune.prune(net, x[:1], macs=0.5, data=data).plan for data in ([x], [x[:32], x[32:]])]
    assert plans[0] == plans[1]


def test_inputs_of_batches_of_other_forms_count() -> None:
    x, y = images(3), torch.tensor([0, 1, 1])
    assert different_inputs([(x, y), {"image": x[:1]}]) == 4
    assert different_inputs([[torch.zeros(3, 4, 5), torch.zeros(2, 5, 4)], "no tensor"]) == 4


def test_an_empty_batch_among_others_is_left_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
    data = [torch.randn(16, 3), torch.zeros(0, 3), torch.randn(16, 3), torch.randn(16, 3)]
    result = fxprune.prune(net, data[0], macs=0.5, data=data)
    assert result.report.few == 0
    assert result.plan.kept_counts() == {"0": 8}
