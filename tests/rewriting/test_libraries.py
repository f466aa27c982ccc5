"""What libraries expect of their models after pruning: timm's feature_info, and configs of transformers."""

from pathlib import Path

import pytest
import timm
import torch
import transformers

import fxprune


def test_feature_info_states_the_new_widths() -> None:
    model = timm.create_model("test_resnet").eval()
    x = torch.rand(1, 3, 64, 64)
    stated = [entry["num_chs"] for entry in model.feature_info]
    small = fxprune.prune(model, x, 0.5).model
    seen: dict[str, int] = {}
    modules = dict(small.named_modules())
    for entry in small.feature_info:
        modules[entry["module"]].register_forward_hook(
            lambda _m, _x, out, name=entry["module"]: seen.update({name: out.shape[1]})
        )
    small(x)
    found = {entry["module"]: entry["num_chs"] for entry in small.feature_info}
    assert found == seen
    assert all(new < old for new, old in zip(found.values(), stated, strict=True))
    assert [entry["num_chs"] for entry in model.feature_info] == stated


@pytest.fixture
def vit() -> transformers.ViTForImageClassification:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config).eval()


X = {"pixel_values": torch.rand(2, 3, 16, 16)}


def hidden_layers(model: torch.nn.Module) -> list[str]:
    """The groups of 48 channels: the wide layers of the perceptrons."""
    return [g.name for g in fxprune.find_groups(fxprune.trace(model, X)) if g.size == 48]


def test_from_pretrained_reads_what_the_config_can_say(
    vit: transformers.ViTForImageClassification, tmp_path: Path
) -> None:
    result = fxprune.prune(vit, X, 0.5, only=hidden_layers(vit))
    result.save_pretrained(tmp_path)
    again = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    assert again.config.intermediate_size == 24
    assert vit.config.intermediate_size == 48
    with torch.inference_mode():
        torch.testing.assert_close(again(**X).logits, result.model(**X).logits)


def test_else_the_error_names_the_two_lines(vit: transformers.ViTForImageClassification, tmp_path: Path) -> None:
    first, second = hidden_layers(vit)
    result = fxprune.prune(vit, X, {first: 0.5, second: 0.25})
    two_lines = (
        r"result.save\(folder\), and load by fxprune.load\(folder, lambda: ViTForImageClassification\(config\)\)"
    )
    with pytest.raises(fxprune.PlanError, match=f"cannot say the widths .*{two_lines}"):
        result.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()
    result.save(tmp_path)
    again = fxprune.load(tmp_path, lambda: transformers.ViTForImageClassification(vit.config)).eval()
    with torch.inference_mode():
        assert torch.equal(again(**X).logits, result.model(**X).logits)


def test_a_model_without_a_config(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    result = fxprune.prune(net, torch.rand(1, 4), 0.5)
    with pytest.raises(fxprune.InputError, match=r"no config to save; seen: Sequential; remedy: use result.save"):
        result.save_pretrained(tmp_path)


@pytest.mark.parametrize("shared", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_fewer_heads_of_shared_keys_are_said(shared: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=40,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=shared,
        head_dim=6,
        vocab_size=50,
    )
    model, ids = transformers.LlamaForCausalLM(config).eval(), torch.randint(0, 50, (2, 7))
    call = {"input_ids": ids, "use_cache": False}
    result = fxprune.prune(model, call, pruning_ratio=0.5, heads="num_heads")
    result.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert (again.config.num_attention_heads, again.config.num_key_value_heads) == (4, shared // 2)
    with torch.inference_mode():
        torch.testing.assert_close(again(**call).logits, result.model(**call).logits)
