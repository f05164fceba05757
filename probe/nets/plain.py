"""AlexNet and VGG-16 under torchvision's parameter names, so that a state dict saved from there fits.

Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014 (arXiv 1404.5997); Simonyan and Zisserman,
Very Deep Convolutional Networks, ICLR 2015 (arXiv 1409.1556), configuration D.
"""

from __future__ import annotations

from torch import Tensor, nn

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pool


class Plain(nn.Module):
    """Features, a pool to a fixed grid, and three dense layers; logits [B, classes]."""

    def __init__(self, features: nn.Sequential, grid: int, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        self.flatten = nn.Flatten()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of prepared pictures [B, 3, 224, 224]."""
        logits: Tensor = self.classifier(self.flatten(self.avgpool(self.features(x))))
        return logits


def alexnet(classes: int = 1000) -> Plain:
    """AlexNet with random weights."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, classes),
    )  # fmt: skip
    return Plain(features, 6, classifier)


def vgg16(classes: int = 1000, *, norm: bool = False) -> Plain:
    """VGG-16 with random weights; `norm` puts a batch norm behind each convolution."""
    layers: list[nn.Module] = []
    inside = 3
    for out in _VGG16:
        if not out:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(inside, out, 3, padding=1))
        layers += [nn.BatchNorm2d(out)] if norm else []
        layers.append(nn.ReLU())
        inside = out
    classifier = nn.Sequential(
        nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, classes),
    )  # fmt: skip
    return Plain(nn.Sequential(*layers), 7, classifier)


def vgg16_bn(classes: int = 1000) -> Plain:
    """VGG-16 with batch norm, random weights."""
    return vgg16(classes, norm=True)
