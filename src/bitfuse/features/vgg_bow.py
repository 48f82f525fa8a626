"""What the hashing papers before CLIP read: VGG-16's fc7 of an image, and a bag of words of its tags.

Named `vgg:<weights file>+<vocabulary file>`: the safetensors file of a published VGG-16 (torchvision's or timm's
tensor names), and a vocabulary that `bitfuse.features.bow.Vocabulary.learn` made of the training texts; without the
second, images only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Resampling

from bitfuse.errors import DamagedFile, InputError
from bitfuse.features.batches import Batched, Rows, check_inputs
from bitfuse.features.bow import Vocabulary
from bitfuse.features.checkpoints import file_hash
from bitfuse.features.loading import check_installed, device_of, run
from bitfuse.features.prompts import GENERIC

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

PARAMETERS = 138_357_544
"""Numbers in the published file."""

_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # channels of the convolutions, in units of the first's
_TIMM = {"pre_logits.fc1.": "classifier.0.", "pre_logits.fc2.": "classifier.3.", "head.fc.": "classifier.6."}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(channels: int = 64, hidden: int = 4096, classes: int = 1000) -> nn.ModuleDict:
    """VGG-16 (configuration D, without batch normalisation) with torchvision's tensor names, weights not yet drawn.

    Args:
        channels: of the first convolution; 64 in the paper.
        hidden: width of fc6 and fc7; 4096 in the paper.
        classes: of the last layer; 1000 in the paper.

    References:
        Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015.
    """
    import torch
    from torch import nn

    with torch.device("meta"):
        features = nn.Sequential()
        before = 3
        for stage in _STAGES:
            for units in stage:
                features.extend([nn.Conv2d(before, units * channels, 3, padding=1), nn.ReLU()])
                before = units * channels
            features.append(nn.MaxPool2d(2))
        linear = [nn.Linear(before * 7 * 7, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)]
        drop = nn.Dropout()
        classifier = nn.Sequential(linear[0], nn.ReLU(), drop, linear[1], nn.ReLU(), drop, linear[2])
        return nn.ModuleDict({"features": features, "classifier": classifier})


class VGGBow(Batched):
    """VGG-16 and a bag of words: fc7 of the image after its ReLU, 4,096 columns, and a column a word.

    An image is scaled to 256 pixels on its shortest side (bilinear), its middle 224 x 224 is cut out, and ImageNet's
    mean and deviation are taken off, as for the published weights.

    Args:
        weights: safetensors file.
        vocabulary: file, or None for images only.
        device: where to compute, as torch names it.
        channels, hidden: as for `network`; the published file has 64 and 4096.

    Raises:
        DamagedFile: no such file, or tensors that are missing or of another shape than VGG-16's.
        MissingDependency: torch is not installed.
    """

    prompts = GENERIC

    def __init__(
        self, weights: str | Path, vocabulary: str | Path | None = None, *, device: str = "cpu", channels: int = 64,
        hidden: int = 4096,
    ) -> None:  # fmt: skip
        super().__init__()
        self._weights, self._device, self._sizes = Path(weights).expanduser().resolve(), device, (channels, hidden)
        check_installed(f"backbone 'vgg:{weights}'")
        if not self._weights.is_file():
            raise DamagedFile(f"no file {self._weights}; give the safetensors file of a published VGG-16")
        self.views = ("image", "text") if vocabulary else ("image",)
        self.name = f"vgg:{self._weights}"
        if vocabulary:
            path = Path(vocabulary).expanduser().resolve()
            self.vocabulary = Vocabulary.load(path)
            self.name += f"+{path}"

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; see `Backbone.describe`."""
        common = {"backbone": self.name, "revision": None, "width": self.width(view), "normalised": False}
        if view == "image":
            return {**common, "weights": file_hash(self._weights), "preprocessing": "fc7, 256 bilinear, 224, ImageNet"}
        return {**common, "weights": None, "preprocessing": f"binary bag of words {self.vocabulary.fingerprint}"}

    def width(self, view: str) -> int:
        """4,096 for images; the size of the vocabulary for texts."""
        self._require(view)
        return self._sizes[1] if view == "image" else len(self.vocabulary.words)

    def encode(self, view: str, inputs: Sequence[Any], *, batch_size: int | None = None) -> Rows:
        """Encode RGB images or texts; see `Backbone.encode`. For texts no weights are read."""
        if view == "text" and "text" in self.views:
            check_inputs(view, inputs)
            return self.vocabulary.bags(inputs)
        return super().encode(view, inputs, batch_size=batch_size)

    def _load(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = dict(_renamed(name, tensor) for name, tensor in load_file(self._weights).items())
        except (OSError, SafetensorError) as error:
            raise DamagedFile(f"{self._weights} is not a safetensors file ({error}); fetch it again") from error
        model = network(*self._sizes, classes=len(found.get("classifier.6.bias", range(1000))))
        for name, wanted in model.state_dict().items():
            has = tuple(found[name].shape) if name in found else "nothing"
            if has != tuple(wanted.shape):
                raise DamagedFile(
                    f"{self._weights}: {name} should have the shape {tuple(wanted.shape)}, the file has {has}; give a "
                    "published VGG-16 without batch normalisation (torchvision's vgg16, timm's vgg16.tv_in1k)"
                )
        model.load_state_dict({name: found[name].float() for name in model.state_dict()}, assign=True)
        self._model = model.eval().to(device_of(self._device))

    def _batch_size(self, view: str) -> int:
        return 16

    def _encode_batch(self, view: str, batch: list[Any]) -> Rows:
        import torch

        pixels = torch.from_numpy(np.stack([_pixels(image) for image in batch]))
        return run(self._model, {"x": pixels}, lambda given: self._fc7(given["x"]))

    def _fc7(self, pixels: Tensor) -> Tensor:
        x: Tensor = self._model["features"](pixels).flatten(1)
        for layer in list(self._model["classifier"].children())[:5]:
            x = layer(x)
        return x


def _renamed(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A tensor of timm's file under torchvision's name: timm writes fc6 and fc7 as convolutions."""
    for theirs, ours in _TIMM.items():
        if name.startswith(theirs):
            return name.replace(theirs, ours), tensor.flatten(1) if tensor.ndim == 4 else tensor
    return name, tensor


def _pixels(image: Image) -> Rows:
    """(3, 224, 224): shortest side to 256, the middle 224 x 224, ImageNet's mean off, over its deviation."""
    width, height = image.size
    scale = 256 / min(width, height)
    scaled = image.resize((max(256, round(width * scale)), max(256, round(height * scale))), Resampling.BILINEAR)
    left, top = (scaled.width - 224) // 2, (scaled.height - 224) // 2
    pixels = np.asarray(scaled.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return np.asarray(((pixels - _MEAN) / _STD).transpose(2, 0, 1), np.float32)


def load(files: str, *, revision: str | None = None, device: str = "cpu") -> VGGBow:
    """The backbone `vgg:<weights file>` or `vgg:<weights file>+<vocabulary file>`."""
    weights, _, vocabulary = files.partition("+")
    if revision is not None:
        raise InputError(f"'vgg:' names files, which have no revisions; drop revision={revision!r}")
    return VGGBow(weights, vocabulary or None, device=device)
