"""O-Net, the last of MTCNN's three face networks: plain convolutions, PReLU and pooling, 48 × 48 pixels.

It says whether a crop is a face and where its five landmarks lie, so an explanation of "the left eye's x" has a place where it
must lie. Zhang et al., Joint Face Detection and Alignment Using Multitask Cascaded CNNs, IEEE SPL 23(10), 2016 (arXiv
1604.02878). Parameter names are those of the published weights (facenet-pytorch, MIT).
"""

from __future__ import annotations

from torch import Tensor, nn

LANDMARKS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
OUTPUTS = (
    "no face",
    "face",
    *(f"box {edge}" for edge in ("left", "top", "right", "bottom")),
    *(f"{name} x" for name in LANDMARKS),
    *(f"{name} y" for name in LANDMARKS),
)


class ONet(nn.Module):
    """[B, 16] of prepared crops [B, 3, 48, 48]: two logits, four box edges, five x and five y; see `OUTPUTS`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.flatten = nn.Flatten()
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.outputs = nn.Linear(256, len(OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, box and landmarks of a batch of prepared crops."""
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x))
        found: Tensor = self.outputs(self.prelu5(self.dense5(self.flatten(x))))
        return found


def renamed(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict under this module's names: the three heads in one layer.

    The published network flattens (width, height, channels), ours (channels, height, width): the columns move.
    """
    import torch

    found = {name: value for name, value in published.items() if not name.startswith("dense6")}
    columns = found["dense5.weight"].view(256, 3, 3, 128)  # width, height, channel
    found["dense5.weight"] = columns.permute(0, 3, 2, 1).reshape(256, 1152).contiguous()
    for leaf in ("weight", "bias"):
        found[f"outputs.{leaf}"] = torch.cat([published[f"dense6_{n}.{leaf}"] for n in (1, 2, 3)])
    return found
