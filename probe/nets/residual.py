"""ResNet-18, -34 and -50 under torchvision's parameter names, so that a state dict saved from there fits.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385), table 1; the step of a bottleneck is in
its 3 × 3 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3 × 3 convolutions, or a bottleneck 1 × 1, 3 × 3, 1 × 1, added to the input."""

    def __init__(self, inside: int, width: int, step: int, *, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        shapes = ((inside, width, 1, 1), (width, width, 3, step), (width, out, 1, 1))
        for number, (a, b, kernel, stride) in enumerate(
            shapes if bottleneck else ((inside, width, 3, step), (width, width, 3, 1)), start=1
        ):
            setattr(self, f"conv{number}", nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(b))
            setattr(self, f"relu{number}", nn.ReLU())
        self.layers = 3 if bottleneck else 2
        self.downsample: nn.Module = nn.Identity()
        if step != 1 or inside != out:
            self.downsample = nn.Sequential(nn.Conv2d(inside, out, 1, step, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H/step, W/step]."""
        y = x
        for number in range(1, self.layers + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.layers:
                y = getattr(self, f"relu{number}")(y)
        found: Tensor = getattr(self, f"relu{self.layers}")(y + self.downsample(x))
        return found


class ResNet(nn.Module):
    """Logits [B, classes] of prepared pictures [B, 3, 224, 224]."""

    def __init__(self, counts: tuple[int, ...], classes: int = 1000, *, bottleneck: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        inside = 64
        for stage, count in enumerate(counts, start=1):
            width, blocks = 32 * 2**stage, []
            for number in range(count):
                step = 2 if stage > 1 and number == 0 else 1
                blocks.append(Block(inside, width, step, bottleneck=bottleneck))
                inside = 4 * width if bottleneck else width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of prepared pictures."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        logits: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits


def resnet18(classes: int = 1000) -> ResNet:
    """ResNet-18 with random weights."""
    return ResNet((2, 2, 2, 2), classes)


def resnet34(classes: int = 1000) -> ResNet:
    """ResNet-34 with random weights."""
    return ResNet((3, 4, 6, 3), classes)


def resnet50(classes: int = 1000) -> ResNet:
    """ResNet-50 with random weights."""
    return ResNet((3, 4, 6, 3), classes, bottleneck=True)
