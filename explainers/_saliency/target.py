"""What is explained: a label of a classifier or the next token of a language model, and its score."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probe.errors import InputError, ModelError

Rule = Literal["label", "independent label", "next token", "answer"]
SCORES: dict[Rule, str] = {
    "label": "log-odds of the label: log(p / (1 − p))",
    "independent label": "log-odds of the label (its logit)",
    "next token": "log-probability of the next token",
    "answer": "log-probability of the whole answer, its tokens given as they are",
}
CONTRAST = "log-odds of the target against the contrast: log(p / q)"


@dataclass(frozen=True)
class Target:
    """One column of the logits, its name, and the model's own choice beside it."""

    index: int
    name: str
    rule: Rule
    prediction: str
    prediction_probability: float
    rival: int | None = None  # what the target is contrasted with
    rival_name: str = ""
    rival_probability: float = float("nan")
    answer: tuple[int, ...] = ()  # ids of a whole answer; then logits are [B, answer, vocabulary]

    @property
    def score_explained(self) -> str:
        """The score in words."""
        return SCORES[self.rule] if self.rival is None else CONTRAST

    def score(self, logits: Tensor) -> Tensor:
        """The score [B] of the logits [B, classes], in nats."""
        if self.rule == "answer":
            return self._each(logits).sum(-1)
        if self.rival is not None:
            return logits[:, self.index] - logits[:, self.rival]
        if self.rule == "next token":
            return logits.log_softmax(-1)[:, self.index]
        if self.rule == "independent label":
            return logits[:, self.index]
        others = torch.cat([logits[:, : self.index], logits[:, self.index + 1 :]], dim=-1)
        return logits[:, self.index] - others.logsumexp(-1)

    def probability(self, logits: Tensor) -> Tensor:
        """The probability [B] of the logits [B, classes]; of an answer the geometric mean over its tokens."""
        if self.rule == "answer":
            return self._each(logits).mean(-1).exp()
        return _probabilities(logits, self.rule)[:, self.index]

    def preference(self, logits: Tensor) -> Tensor:
        """The probability [B], against the contrast alone where there is one: p / (p + q)."""
        return self.probability(logits) if self.rival is None else self.score(logits).sigmoid()

    def _each(self, logits: Tensor) -> Tensor:
        ids = torch.tensor(self.answer, device=logits.device).expand(len(logits), -1)
        return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def resolve_target(
    logits: Tensor, asked: str | None, contrast: str | None, task: str, model: nn.Module, processor: Any
) -> Target:
    """Settle the target, and what it is contrasted with, from the logits [classes] of the input itself.

    Raises:
        InputError: no such label, or a next token that is not exactly one token.
        ModelError: a classifier with a single output (a regression).
    """
    config = getattr(model, "config", None)
    rule: Rule = "next token"
    if task == "text-classification":
        if logits.shape[0] < 2:
            raise ModelError("the model has one output: a regression has no label to explain")
        rule = (
            "independent label"
            if getattr(config, "problem_type", None) == "multi_label_classification"
            else "label"
        )
    labels = getattr(config, "id2label", None) or {}

    def name(index: int) -> str:
        return str(processor.decode([index]) if rule == "next token" else labels.get(index, f"label {index}"))

    def place(text: str, parameter: str) -> int:
        if rule == "next token":
            return _next_token(text, processor, parameter)
        return _label(text, [name(i) for i in range(len(logits))], parameter)

    predicted = int(logits.argmax())
    index = predicted if asked is None else place(asked, "target")
    chances = _probabilities(logits[None], rule)[0]
    found = Target(index, name(index), rule, name(predicted), chances[predicted].item())
    if contrast is None:
        return found
    rival = place(contrast, "contrast")
    if rival == index:
        raise InputError(f"contrast = {contrast!r} is the target itself: name another answer")
    return replace(found, rival=rival, rival_name=name(rival), rival_probability=chances[rival].item())


def _probabilities(logits: Tensor, rule: Rule) -> Tensor:
    return logits.sigmoid() if rule == "independent label" else logits.softmax(-1)


def _label(asked: str, labels: list[str], parameter: str) -> int:
    found = [i for i, label in enumerate(labels) if label.lower() == asked.strip().lower()]
    if len(found) == 1:
        return found[0]
    if asked.strip().isdecimal() and int(asked) < len(labels):
        return int(asked)
    raise InputError(
        f"{parameter} = {asked!r} is no label of this model; expected one of {', '.join(labels[:20])}"
    )


def _next_token(asked: str, processor: Any, parameter: str) -> int:
    ids = processor(asked, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and ids[0] != processor.unk_token_id:
        return int(ids[0])
    pieces = [processor.decode([token]) for token in ids]
    raise InputError(
        f"{parameter} = {asked!r} is {len(ids)} tokens {pieces[:8]}, expected exactly one known token of the model"
    )
