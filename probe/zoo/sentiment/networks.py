"""Teacher and student: MiniLM with a mean-pooled head, and the small BERT that ships."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LABELS = ("negative", "positive")


class Teacher(nn.Module):
    """all-MiniLM-L6-v2, mean over valid tokens, dropout, one logit of "positive"."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        super().__init__()
        self.body = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(self.body.config.hidden_size, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, N] ids and mask -> logit of "positive" [B]."""
        hidden = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        logit: Tensor = self.head(self.drop(pooled))
        return logit.squeeze(-1).float()


@dataclass(frozen=True)
class Shape:
    """The student's size; the default is the one that ships."""

    pieces: int = 12000
    width: int = 192
    layers: int = 4
    heads: int = 6
    feedforward: int = 384
    length: int = 512


def new_student(shape: Shape, embedding: Tensor | None = None, dropout: float = 0.1) -> Any:
    """A BertForSequenceClassification with labels negative and positive.

    Args:
        shape: Its size.
        embedding: [pieces, width] to start the token embeddings from; None leaves them random.
        dropout: Of hidden states, while training.
    """
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=shape.pieces,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feedforward,
        max_position_embeddings=shape.length,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        num_labels=len(LABELS),
    )
    config._attn_implementation = "sdpa"
    model = BertForSequenceClassification(config)
    if embedding is not None:
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight.copy_(embedding)
    return model


def margin(logits: Tensor) -> Tensor:
    """Log odds of "positive", [B, 2] -> [B]."""
    return logits[:, 1].float() - logits[:, 0].float()
