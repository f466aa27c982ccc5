"""A few quick networks of each suite, with all checks, and the table of what the whole suites gave."""

from pathlib import Path

import pytest
import suites_table
from coverage_checks import Options, examine, failures
from suites import suite

# What the `dev` extra does not install is tried where it is there.
OPTIONAL = {"smp": "segmentation_models_pytorch", "torchaudio": "torchaudio", "onnx2torch": "onnx2torch"}
OPTIONAL |= {name: name for name in ("pytorchcv", "monai", "diffusers", "vit_pytorch", "x_transformers", "spandrel")}
SAMPLE = {
    "timm": ["efficientvit_m0", "levit_128s", "ghostnet_050"],
    "transformers": [
        "Qwen3ForCausalLM",
        "GptOssForCausalLM",
        "T5ForConditionalGeneration",
        "LevitForImageClassification",
    ],
    "ultralytics": ["yolov8n", "yolo11n-cls", "yolo26n"],
    "smp": ["FPN-mobilenet_v2"],
    "torchaudio": ["DeepSpeech", "ConvTasNet"],
    "onnx2torch": ["squeezenet1_1", "resnet18"],
    "pytorchcv": ["octresnet10_ad2", "igcv3_w1"],
    "monai": ["VQVAE", "UNet"],
    "diffusers": ["ControlNetModel", "UNet2DConditionModel"],
    "vit_pytorch": ["simple_vit", "vit_nd"],
    "x_transformers": ["image_plain", "words_llama"],
    "spandrel": ["DITN", "RCAN"],
}
QUICK = ("GptOssForCausalLM", *SAMPLE["smp"])
QUICK += (*SAMPLE["torchaudio"], *SAMPLE["onnx2torch"], "octresnet10_ad2", *SAMPLE["monai"], *SAMPLE["diffusers"])
QUICK += (*SAMPLE["vit_pytorch"], *SAMPLE["x_transformers"], *SAMPLE["spandrel"])
CASES = [
    pytest.param(name, model, id=f"{name}-{model}", marks=[pytest.mark.slow] * (model not in QUICK))
    for name, models in SAMPLE.items()
    for model in models
]


@pytest.mark.filterwarnings("ignore")  # of other people's packages
@pytest.mark.parametrize(("name", "model"), CASES)
def test_sample(name: str, model: str) -> None:
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    row = examine(model, Options(name))
    assert row.get("error", failures(row)) == []


@pytest.mark.filterwarnings("ignore")
def test_no_network_is_asked_for() -> None:
    """What is drawn from a package is made on this machine."""
    pytest.importorskip("ultralytics")
    suite("ultralytics")
    from ultralytics.utils import ONLINE

    assert ONLINE is False


def test_the_docs_show_what_the_rows_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "support.md").read_text()
    assert suites_table.table() in page
