"""Small networks of every architecture that relevance has to flow through, float64, with uneven normalisation."""

import torch
from torch import nn
from torch.nn import functional as F


def settled(model, seed=0):
    """In evaluation, float64, with running statistics and biases that matter."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.eps = 0.01  # so that a merge which leaves it out is seen
    return model.double().eval()


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 9 * 9, 5),
    )  # fmt: skip


def vgg(norm=True):
    def stage(a, b):
        return [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *stage(3, 6), *stage(6, 6), nn.MaxPool2d(2), *stage(6, 8), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3),
        nn.Flatten(), nn.Linear(72, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, 5),
    )  # fmt: skip


def alexnet(bias=True):
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2, padding=2, bias=bias), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 8, 3, padding=1, bias=bias), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Flatten(), nn.Dropout(), nn.Linear(32, 16, bias=bias), nn.ReLU(inplace=True),
        nn.Linear(16, 5, bias=bias),
    )  # fmt: skip


class Residual(nn.Module):
    """One block, its sum written in one of the ways that people use."""

    def __init__(self, channels, way="iadd", norm=True):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.one, self.two = (nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(2))
        self.relu, self.way = nn.ReLU(inplace=True), way

    def forward(self, x):
        out = self.two(self.second(self.relu(self.one(self.first(x)))))
        if self.way == "iadd":
            out += x
        elif self.way == "add_":
            out.add_(x)
        elif self.way == "torch.add":
            out = torch.add(out, x)
        else:
            out = x + out
        return self.relu(out)


def resnet(way="iadd", norm=True, blocks=3):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(),
        *(Residual(6, way, norm) for _ in range(blocks)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5, bias=norm),
    )  # fmt: skip


class Inverted(nn.Module):
    """Expand, depthwise with its padding made by hand, project, sum; a squeeze-excite gate in between."""

    def __init__(self, channels, gate=False):
        super().__init__()
        self.widen = nn.Sequential(
            nn.Conv2d(channels, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True)
        )
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12, bias=False)
        self.norm, self.project = nn.BatchNorm2d(12), nn.Conv2d(12, channels, 1, bias=False)
        self.last = nn.BatchNorm2d(channels)
        self.squeeze = nn.Conv2d(12, 12, 1) if gate else None

    def forward(self, x):
        y = F.relu6(self.norm(self.depthwise(F.pad(self.widen(x), (1, 1, 1, 1)))))
        if self.squeeze is not None:
            y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        return x + self.last(self.project(y))


def mobilenet(gate=False):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Hardswish() if gate else nn.ReLU6(),
        Inverted(8, gate), Inverted(8, gate), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(8 * 9, 5),
    )  # fmt: skip


class Dense(nn.Module):
    """BatchNorm before its convolution, concatenation, GroupNorm, PReLU, upsampling: what the others lack."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.conv = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.group, self.act, self.last = (
            nn.GroupNorm(2, 8),
            nn.PReLU(8),
            nn.Conv2d(8, 6, 3, padding_mode="reflect", padding=1),
        )
        self.instance, self.head = nn.InstanceNorm2d(6, affine=True), nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.conv(F.leaky_relu(self.norm(x), 0.1))], 1)
        x = F.interpolate(self.act(self.group(x)), scale_factor=1.5, mode="bilinear")
        x = F.elu(self.instance(self.last(x)))
        return self.head(x.amax((2, 3)))


CNNS = {
    "plain": plain,
    "vgg": vgg,
    "alexnet": alexnet,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "gated mobilenet": lambda: mobilenet(gate=True),
    "dense": Dense,
}


def cnn(name, seed=0):
    """A network of `CNNS` and a picture for it."""
    torch.manual_seed(seed)
    return settled(CNNS[name](), seed), torch.randn(1, 3, 24, 24).double()
