"""Small convolutional networks with gates: squeeze-excite and CBAM-style, written out in full, and library models of tiny
size."""

import torch
from torch import nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    def __init__(self, channels, way="expand"):
        super().__init__()
        self.reduce, self.widen, self.way = nn.Linear(channels, 4), nn.Linear(4, channels), way

    def factors(self, x):
        return torch.sigmoid(self.widen(F.relu(self.reduce(x.mean((2, 3))))))

    def forward(self, x):
        gate = self.factors(x)[:, :, None, None]
        return x * gate.expand_as(x) if self.way == "expand" else x * gate


class SpatialAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def factors(self, x):
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return torch.sigmoid(self.conv(pooled))

    def forward(self, x):
        return x * self.factors(x)


class Gated(nn.Module):
    """Convolution, in-place ReLU, squeeze-excite, functional pool, CBAM-style spatial attention, classes."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.squeeze = SqueezeExcite(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.spatial = SpatialAttention()
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.squeeze(self.stem(x))
        x = F.max_pool2d(F.relu(self.body(x)), 2)
        x = self.spatial(x)
        return self.head(x.mean((2, 3)))


class Odd(nn.Module):
    """Windows of many kinds one after the other, no gate: its fields can be measured from outside."""

    def __init__(self):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 2, 0))
        self.a = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(0, 2))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.b = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.short = nn.Conv2d(4, 4, 1)
        self.c = nn.Conv2d(4, 6, 2, stride=2)
        self.mean = nn.AvgPool2d(2, 1, 1)
        self.side = nn.Conv2d(4, 6, 4, stride=2, padding=1)
        self.last = nn.Identity()

    def forward(self, x):
        x = self.pool(F.gelu(self.a(self.pad(x))))
        x = self.short(x) + self.b(x)
        wide = self.side(x)
        x = self.mean(self.c(x))
        return self.last(
            torch.cat([x[:, :, : wide.shape[2], : wide.shape[3]], wide[:, :, : x.shape[2], : x.shape[3]]], 1)
        )


def seeded(model, seed=0):
    """Random weights, running statistics that are not those of a fresh network, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            std = 1.2 * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def picture(batch=2, height=37, width=50, seed=1):
    """A batch of random pictures, not square."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
