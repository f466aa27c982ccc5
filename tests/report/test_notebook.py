"""Objects in a notebook: a line each, a table each, and plots."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune import report

X = torch.rand(1, 3, 8, 8)
HOSTILE = "<script>"


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1))
        self.add_module(HOSTILE, nn.Conv2d(6, 2, 1))


@pytest.fixture
def result() -> fxprune.Result[Net]:
    return fxprune.prune(Net(), X, 0.5)


def test_every_object_is_told_in_a_line(result: fxprune.Result[Net]) -> None:
    groups, plan = result.report.groups, result.plan
    found = {
        repr(value)
        for value in (groups, groups["0"], groups["0"].slots[0], groups.graph, plan, plan.groups["0"], result)
    }
    assert found == {
        f"Groups(2 groups, 14 channels, {len(groups.fixed)} dims fixed)",
        "Group(name='0', size=8, mixed_by='')",
        "Slot(0.weight[dim 0]: 8 of 8 indices, producer)",
        "Graph(Net: 4 calls, 6 tensors)",
        "Plan(2 groups: 7 of 14 channels stay)",
        "PlannedGroup(0: 4 of 8 channels stay)",
        f"Result(Net; {repr(result.report)[7:-1]})",
    }
    assert repr(result.report).startswith("Report(2 of 2 groups pruned, ")
    assert len({result, result.report, result}) == 2  # hashed as objects


def test_every_object_has_a_table(result: fxprune.Result[Net]) -> None:
    search = fxprune.search.Bisection(0.5, progress=False)(
        Net(), result.report.groups, lambda model: 1.0, scorer=fxprune.scorers.L2Norm()
    )
    for value in (result, result.report, result.plan, result.report.groups, search):
        html = value._repr_html_()
        assert html.count("<table>") == html.count("</table>") == 1
        assert HOSTILE not in html
    assert "without data" in result._repr_html_()
    assert "tried, the original at 1" in repr(search)


def test_one_channel_of_two_hundred_is_not_rounded_away() -> None:
    net = nn.Sequential(nn.Conv2d(3, 200, 1), nn.ReLU(), nn.Conv2d(200, 4, 1)).eval()
    result = fxprune.prune(net, torch.rand(1, 3, 8, 8), pruning_ratio=0.005)
    assert "99.5%" in result.report._repr_html_()


def test_the_picture_of_a_result_shows_what_was_removed(result: fxprune.Result[Net]) -> None:
    svg = report.picture(result)
    assert "8 → 4 ch" in svg
    assert "4 of them stay" in svg
    assert "that were removed" in svg
    assert "that were removed" not in report.picture(result.report.groups)
    with pytest.raises(fxprune.InputError, match="a report needs groups or a result; seen: Plan"):
        report.picture(result.plan)  # type: ignore[arg-type]


def test_plots() -> None:
    net, data = Net(), [torch.rand(16, 3, 8, 8)]
    groups = fxprune.find_groups(fxprune.trace(net, X))
    scores = fxprune.scorers.L2Norm()(net, groups)
    assert [len(a.lines[0].get_ydata()) for a in report.plot_scores(scores).axes] == [8, 6]
    curves = fxprune.scorers.JointElimination().curves(net, groups, data)
    assert [len(a.lines[0].get_ydata()) for a in report.plot_curves(curves).axes] == [9, 7]
    widths = report.plot_widths(groups, scores).axes[0]
    for rate, line in zip((0.2, 0.4, 0.6, 0.8, 0.9), widths.lines, strict=True):
        expected = []
        for values in scores.values():  # the fewest largest that make up the rate
            falling = torch.cumsum(values.sort(descending=True).values, 0) / values.sum()
            expected.append((int((falling < rate - 1e-9).sum()) + 1) / len(values))
        assert list(line.get_ydata()) == expected
    assert len(report.plot_tradeoff({"a": [(1.0, 2.0), (0.5, 1.0)]}).axes[0].lines) == 1
    history = [fxprune.search.Probe(0.5, 0.9, taken, fxprune.Cost(macs, 1)) for taken, macs in ((True, 3), (False, 1))]
    assert len(report.plot_history(history).axes[1].lines) == 2
    search = fxprune.search.Search(groups.plan({}), net, 1.0, tuple(history))
    assert len(report.plot_history(search).axes[1].lines) == 2


@pytest.mark.parametrize("draw", [lambda: report.plot_scores({}), lambda: report.plot_history([])])
def test_nothing_to_plot(draw: Any) -> None:
    with pytest.raises(fxprune.InputError, match="nothing to plot"):
        draw()


def test_matplotlib_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(fxprune.InputError, match=r"plots need matplotlib; .*pip install 'fxprune\[plots\]'"):
        report.plot_scores({"a": torch.ones(3)})
