"""Texts as padded tensors, and the training loops of teacher and student."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, normalize

from probe.zoo.sentiment.networks import margin


@dataclass(frozen=True)
class Batch:
    """Token ids of many texts: ids [N, L] int32 padded with `pad`, lengths [N]."""

    ids: Tensor
    lengths: Tensor
    pad: int
    mask_id: int

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask of some rows, cut to the longest of them (a multiple of 8)."""
        lengths = self.lengths[index]
        longest = min(self.ids.shape[1], -(-int(lengths.max()) // 8) * 8)
        ids = self.ids[index, :longest].long()
        return ids, (torch.arange(longest, device=ids.device) < lengths[:, None]).long()


def encode(texts: list[str], tokenizer: Any, device: torch.device, longest: int = 192) -> Batch:
    """Encode texts with a `tokenizers.Tokenizer`, cutting at `longest` tokens, special ones kept."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    rows = [e.ids for start in range(0, len(texts), 65536) for e in tokenizer.encode_batch(texts[start : start + 65536])]
    lengths = torch.tensor([len(r) for r in rows])
    flat = torch.tensor([i for r in rows for i in r], dtype=torch.int32)
    pad = tokenizer.token_to_id("[PAD]")
    ids = torch.full((len(rows), int(lengths.max())), pad, dtype=torch.int32)
    ids[torch.arange(ids.shape[1]) < lengths[:, None]] = flat
    return Batch(ids.to(device), lengths.to(device), pad, tokenizer.token_to_id("[MASK]"))


def batches(lengths: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch of row indices in batches of like length, in random order."""
    order = torch.randperm(len(lengths), generator=generator).to(lengths.device)
    pieces = []
    for part in order.split(64 * size):
        pieces.extend(part[lengths[part].argsort()].split(size))
    for i in torch.randperm(len(pieces), generator=generator).tolist():
        yield pieces[i]


def _schedule(optimizer: torch.optim.Optimizer, steps: int, warm: float = 0.06) -> Any:
    """Linear warm-up, then a cosine to zero."""

    def factor(step: int) -> float:
        done = step / max(1, steps)
        return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _decayed(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def train(
    model: nn.Module,
    texts: Batch,
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    epochs: float,
    batch: int,
    rate: float,
    seed: int,
    decay: float = 0.01,
) -> float:
    """Minimize `loss_of(ids, mask, rows)` with AdamW, bfloat16 autocast on a GPU; returns the last epoch's mean loss."""
    device = texts.ids.device
    generator = torch.Generator().manual_seed(seed)
    steps = max(1, int(epochs * math.ceil(len(texts.lengths) / batch)))
    optimizer = torch.optim.AdamW(_decayed(model, decay), lr=rate, betas=(0.9, 0.98), fused=device.type == "cuda")
    schedule = _schedule(optimizer, steps)
    model.train()
    step, recent = 0, torch.zeros((), device=device)
    while step < steps:
        for rows in batches(texts.lengths, batch, generator):
            ids, mask = texts.rows(rows)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = loss_of(ids, mask, rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            recent = 0.98 * recent + 0.02 * loss.detach()
            step += 1
            if step == steps:
                break
    model.eval()
    return float(recent) / (1 - 0.98**steps)


def hide(ids: Tensor, mask_id: int, special: int, most: float) -> Tensor:
    """Replace a random share (up to `most`, drawn per row) of the ids that are not special by [MASK]."""
    share = torch.rand(len(ids), 1, device=ids.device) * most
    return torch.where((torch.rand(ids.shape, device=ids.device) < share) & (ids > special), mask_id, ids)


def teacher_loss(model: nn.Module, texts: Batch, targets: Tensor, special: int) -> Callable[..., Tensor]:
    """Cross-entropy of the teacher's logit against soft targets [N], some tokens masked."""

    def loss(ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        logit, _ = model(hide(ids, texts.mask_id, special, 0.2), mask)
        return binary_cross_entropy_with_logits(logit, targets[rows])

    return loss


def student_loss(
    model: Any, targets: Tensor, features: Tensor | None, projector: nn.Module | None, weight: float, length: int
) -> Callable[..., Tensor]:
    """Cross-entropy of the student's log odds against the teachers' probability, plus `weight` × the distance of features.

    Positions start at a random offset in a quarter of the batches, so that all `length` of them are trained.
    """

    def loss(ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        room = length - ids.shape[1]
        offset = int(torch.randint(room, ())) if room > 0 and float(torch.rand(())) < 0.25 else 0
        positions = offset + torch.arange(ids.shape[1], device=ids.device)[None]
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=features is not None)
        total = binary_cross_entropy_with_logits(margin(out.logits), targets[rows])
        if features is not None and projector is not None:
            hidden = out.hidden_states[-1]
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            near = normalize(projector(pooled).float(), dim=-1)
            total = total + weight * mse_loss(near, normalize(features[rows].float(), dim=-1)) * near.shape[-1]
        return total

    return loss


@torch.no_grad()
def predict(model: nn.Module, texts: Batch, size: int = 2048) -> tuple[Tensor, Tensor | None]:
    """Log odds [N] (and a teacher's features [N, 384] in float16) in the order of the texts."""
    model.eval()
    device = texts.ids.device
    logits = torch.empty(len(texts.lengths), device=device)
    features: Tensor | None = None
    for rows in texts.lengths.argsort().split(size):
        ids, mask = texts.rows(rows)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            out = model(ids, mask)
        if isinstance(out, tuple):
            logits[rows] = out[0]
            if features is None:
                features = torch.empty(len(logits), out[1].shape[1], dtype=torch.float16, device=device)
            features[rows] = out[1].half()
        else:
            logits[rows] = margin(out.logits)
    return logits, features
