"""Detection, segmentation, pose, oriented boxes and classification of ultralytics, in the smallest size of each."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suites import Case

# Read when ultralytics is imported: it neither calls home nor installs packages nor writes into the user's folder.
os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir()) / "ultralytics-settings"))

PACKAGE = "ultralytics"
_NAMES = """
yolov3-tiny yolov3 yolov5n yolov5n-p6 yolov6n
yolov8n yolov8n-p2 yolov8n-p6 yolov8n-ghost yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls
yolov8n-world yolov8n-worldv2
yolov9t yolov9s yolov9c-seg yolov10n yolov10s
yolo11n yolo11n-seg yolo11n-pose yolo11n-obb yolo11n-cls
yolo12n yolo12n-seg yolo12n-pose yolo12n-obb yolo12n-cls
yolo26n yolo26n-p2 yolo26n-p6 yolo26n-seg yolo26n-sem yolo26n-depth yolo26n-pose yolo26n-obb yolo26n-cls
yolov8n-rtdetr rtdetr-l rtdetr-resnet50
"""
_KINDS = {
    "rtdetr": "transformer detection",
    "-seg": "segmentation",
    "-sem": "segmentation",
    "-depth": "depth",
    "-pose": "pose",
    "-obb": "oriented boxes",
    "-cls": "classification",
    "-world": "open vocabulary",
}


def names() -> list[str]:
    return [*_NAMES.split()]


def case(name: str) -> Case:
    return Case(
        family=next((kind for part, kind in _KINDS.items() if part in name), "detection"),
        build=partial(_build, name),
        example=partial(_images, 128),
        larger=partial(_images, 192, 1),
    )


def _build(name: str) -> nn.Module:
    import ultralytics

    kind: Any = getattr(ultralytics, "RTDETR" if "rtdetr" in name else "YOLO")
    model = kind(f"{name}.yaml").model.eval()
    if hasattr(model, "txt_feats"):  # the names of classes, drawn anew in every model
        model.txt_feats = torch.linspace(-1, 1, model.txt_feats.numel()).reshape(model.txt_feats.shape)
    return model


def _images(size: int, batch: int) -> Tensor:
    return torch.rand(batch, 3, size, size)
