"""What is explained: a model, a text and a target, as one differentiable score of the token embeddings."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import InputError, ModelError
from probe.explainers._saliency.answer import answer_logits, own_answer
from probe.explainers._saliency.target import Target, resolve_target
from probe.explainers._saliency.tokens import Tokens, tokenize

TASKS = ("text-classification", "text-generation")


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and one text. All functions take embeddings [B, N, D] in the place of the text's own."""

    model: nn.Module
    task: str
    tokens: Tokens
    embeddings: Tensor  # [1, N, D], the text's own
    target: Target
    batch_size: int

    def score(self, embeddings: Tensor) -> Tensor:
        """The score [B], float32: log-odds of the label or log-probability of the next token [nat]."""
        return self.target.score(self.logits(embeddings))

    def logits(self, embeddings: Tensor) -> Tensor:
        """The logits [B, classes] that the target is about; of an answer [B, answer, vocabulary]."""
        if self.target.answer:
            return answer_logits(self.model, self.tokens, embeddings, self.target.answer)
        return logits_of(self.model, self.task, self.tokens, embeddings)

    def probability(self, embeddings: Tensor) -> Tensor:
        """The target's probability [B], float32, in batches and without gradient."""
        return self._in_batches(self.target.probability, embeddings)

    def preference(self, embeddings: Tensor) -> Tensor:
        """As `probability`, but against the contrast alone where there is one."""
        return self._in_batches(self.target.preference, embeddings)

    def _in_batches(self, read: Callable[[Tensor], Tensor], embeddings: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [read(self.logits(part)) for part in torch.split(embeddings, self.batch_size)]
        return torch.cat(parts)


def open_subject(
    loaded: Any,
    text: str,
    target: str | None,
    limit: int,
    batch_size: int,
    *,
    contrast: str | None = None,
    answer: int = 0,
) -> Subject:
    """Tokenize, embed, run once and settle the target.

    Args:
        loaded: `LoadedModel`.
        text: the input.
        target: label or next token; None takes the prediction.
        limit: most tokens taken.
        batch_size: inputs in one forward pass.
        contrast: label or next token that the target is held against; None for all others.
        answer: of a language model, explain its own whole answer of at most so many tokens.

    Raises:
        InputError: the text or the target cannot be used.
        ModelError: the model has no such task, is in training mode, cannot be fed embeddings, or gives no
            finite logits.
    """
    model, processor, task = (getattr(loaded, name, None) for name in ("model", "processor", "task"))
    if not isinstance(model, nn.Module) or processor is None:
        raise InputError(f"expected a model from probe.load, got {type(loaded).__name__}")
    if task not in TASKS:
        raise ModelError(
            f"a {task} model has no label and no next token to explain; expected {' or '.join(TASKS)}"
        )
    if any(module.training for module in model.modules()):
        raise ModelError(
            "the model is in training mode (dropout makes every run differ); call model.eval() first"
        )
    accepted = set(inspect.signature(model.forward).parameters)
    tokens = tokenize(processor, text, accepted, next(model.parameters()).device)
    _check_length(model, processor, len(tokens.pieces), len(text), limit)
    with torch.no_grad():
        embeddings = embedding_layer(model)(tokens.inputs["input_ids"])
        logits = logits_of(model, task, tokens, embeddings)
        _check_logits(model, task, tokens, logits)
    if answer:
        found = own_answer(model, processor, task, tokens, answer, target or contrast)
    else:
        found = resolve_target(logits[0], target, contrast, task, model, processor)
    return Subject(model, task, tokens, embeddings, found, batch_size)


def embedding_layer(model: nn.Module) -> nn.Module:
    """The layer that turns ids into embeddings.

    Raises:
        ModelError: the model does not name one.
    """
    try:
        return model.get_input_embeddings()  # type: ignore[operator,no-any-return]
    except (AttributeError, NotImplementedError) as error:
        raise ModelError(
            f"{type(model).__name__} does not say which layer embeds its tokens (get_input_embeddings)"
        ) from error


def logits_of(model: nn.Module, task: str, tokens: Tokens, embeddings: Tensor) -> Tensor:
    """Logits [B, classes or vocabulary], float32, with embeddings [B, N, D] in place of the text's own."""
    names = set(inspect.signature(model.forward).parameters)
    inputs: dict[str, Any] = {
        name: value.expand(len(embeddings), -1) for name, value in tokens.inputs.items()
    }
    inputs |= {"use_cache": False} if "use_cache" in names else {}
    inputs |= {"logits_to_keep": 1} if task == "text-generation" and "logits_to_keep" in names else {}
    if "inputs_embeds" in names:
        del inputs["input_ids"]
        logits: Tensor = model(inputs_embeds=embeddings, **inputs).logits
    else:
        with _embeddings_replaced(embedding_layer(model), embeddings):
            logits = model(**inputs).logits
    return (logits[:, -1] if task == "text-generation" else logits).float()


@contextmanager
def _embeddings_replaced(layer: nn.Module, embeddings: Tensor) -> Iterator[None]:
    handle = layer.register_forward_hook(lambda *_: embeddings)
    try:
        yield
    finally:
        handle.remove()


def _check_length(model: nn.Module, processor: Any, count: int, characters: int, limit: int) -> None:
    positions = (
        getattr(getattr(model, "config", None), "max_position_embeddings", None) or processor.model_max_length
    )
    fits = min(positions, processor.model_max_length)
    size = f"the text has {count:,} tokens ({characters:,} characters)"
    if count > fits:
        raise InputError(f"{size}, the model takes at most {fits:,}: shorten the text")
    if count > limit:
        raise InputError(
            f"{size}, at most {limit:,} are explained: shorten it, or raise max_tokens (cost: its square)"
        )


def _check_logits(model: nn.Module, task: str, tokens: Tokens, logits: Tensor) -> None:
    if not torch.isfinite(logits).all():
        raise ModelError(
            "the model's logits are not finite (NaN or infinite): its weights or its number format are broken"
        )
    own = model(**tokens.inputs).logits
    own = (own[:, -1] if task == "text-generation" else own).float()
    error = (own - logits).abs().max().item()
    if error > 1e-3 * (1 + own.abs().max().item()):
        raise ModelError(
            f"{type(model).__name__} gives other logits from embeddings than from ids (by {error:.3g}): "
            "token scores would explain another computation"
        )
