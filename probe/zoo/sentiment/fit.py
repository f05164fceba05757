"""Texts as padded tensors, and the training loops of teacher and student."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from probe.zoo.sentiment.networks import margin


@dataclass(frozen=True)
class Batch:
    """Token ids of many texts: ids [N, L] int32 padded with `pad`, on the device; lengths [N], on the CPU."""

    ids: Tensor
    lengths: Tensor
    pad: int
    mask_id: int

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and mask of some rows, cut to the longest of them (a multiple of 8), and the index on the device."""
        lengths = self.lengths[index]
        longest = min(self.ids.shape[1], -(-int(lengths.max()) // 8) * 8)
        there = index.to(self.ids.device, non_blocking=True)
        mask = torch.arange(longest) < lengths[:, None]
        return self.ids[there, :longest].long(), mask.to(self.ids.device, non_blocking=True).long(), there


def encode(texts: list[str], tokenizer: Any, device: torch.device, longest: int = 192) -> Batch:
    """Encode texts with a `tokenizers.Tokenizer`, cutting at `longest` tokens, special ones kept."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    rows = [
        e.ids
        for start in range(0, len(texts), 65536)
        for e in tokenizer.encode_batch(texts[start : start + 65536])
    ]
    lengths = torch.tensor([len(r) for r in rows])
    flat = torch.tensor([i for r in rows for i in r], dtype=torch.int32)
    pad = tokenizer.token_to_id("[PAD]")
    ids = torch.full((len(rows), int(lengths.max())), pad, dtype=torch.int32)
    ids[torch.arange(ids.shape[1]) < lengths[:, None]] = flat
    return Batch(ids.to(device), lengths, pad, tokenizer.token_to_id("[MASK]"))


def batches(lengths: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch of row indices in batches of like length, in random order."""
    order = torch.randperm(len(lengths), generator=generator)
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
    source: Tensor,
    texts: Batch,
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    epochs: float,
    batch: int,
    rate: float,
    seed: int,
    decay: float = 0.01,
    tell: Callable[[str], None] | None = None,
) -> float:
    """Minimize a loss with AdamW, warm-up and a cosine, in bfloat16 on a GPU.

    Args:
        model: What is trained, on the device of the texts.
        source: The texts' numbers that make up an epoch (some may stand there more than once), [M].
        texts: The texts.
        loss_of: From ids, mask and the texts' numbers of a batch to the loss.
        epochs: How often to go over `source`.
        batch: Texts in a step.
        rate: Highest learning rate.
        seed: Of the order of texts.
        decay: Weight decay of matrices.
        tell: Called with a line every 500 steps.

    Returns:
        A running mean of the last losses.
    """
    device = texts.ids.device
    generator = torch.Generator().manual_seed(seed)
    lengths = texts.lengths[source]
    steps = max(1, int(epochs * math.ceil(len(lengths) / batch)))
    optimizer = torch.optim.AdamW(
        _decayed(model, decay), lr=rate, betas=(0.9, 0.98), fused=device.type == "cuda"
    )
    schedule = _schedule(optimizer, steps)
    model.train()
    step, recent = 0, torch.zeros((), device=device)
    while step < steps:
        for rows in batches(lengths, batch, generator):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = loss_of(*texts.rows(source[rows]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            recent = 0.98 * recent + 0.02 * loss.detach()
            step += 1
            if tell is not None and step % 500 == 0:
                tell(f"step {step} of {steps}, loss {float(recent) / (1 - 0.98**step):.4f}")
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
        logit = model(hide(ids, texts.mask_id, special, 0.2), mask)
        return binary_cross_entropy_with_logits(logit, targets[rows])

    return loss


def student_loss(
    model: Any, targets: Tensor, texts: Batch, hidden: float, length: int
) -> Callable[..., Tensor]:
    """Cross-entropy of the student's log odds with soft targets.

    Positions start at a random offset in a quarter of the batches, so that all `length` of them are trained.

    Args:
        model: The student.
        targets: Probability of "positive" of each text, [N].
        texts: The texts.
        hidden: Mask a random share of tokens, up to this one.
        length: Number of positions.
    """

    def loss(ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        room = length - ids.shape[1]
        offset = int(torch.randint(room, ())) if room > 0 and float(torch.rand(())) < 0.25 else 0
        positions = offset + torch.arange(ids.shape[1], device=ids.device)[None]
        shown = hide(ids, texts.mask_id, texts.mask_id, hidden) if hidden else ids
        logits = model(input_ids=shown, attention_mask=mask, position_ids=positions).logits
        return binary_cross_entropy_with_logits(margin(logits), targets[rows])

    return loss


@torch.no_grad()
def predict(model: nn.Module, texts: Batch, size: int = 2048) -> Tensor:
    """Log odds [N] of a teacher or student, in the order of the texts."""
    model.eval()
    device = texts.ids.device
    logits = torch.empty(len(texts.lengths), device=device)
    for index in texts.lengths.argsort().split(size):
        ids, mask, rows = texts.rows(index)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            out = model(ids, mask)
        logits[rows] = out if isinstance(out, Tensor) else margin(out.logits)
    return logits
