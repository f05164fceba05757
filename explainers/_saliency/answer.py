"""A whole answer of a language model as the target: made greedily, then given token by token."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import InputError, ModelError
from probe.explainers._saliency.target import Target
from probe.explainers._saliency.tokens import Tokens


def own_answer(
    model: nn.Module, processor: Any, task: str, tokens: Tokens, count: int, named: str | None
) -> Target:
    """The model's own greedy answer as a target.

    Args:
        model: a causal language model.
        processor: its tokenizer.
        task: of the model.
        tokens: the prompt.
        count: most tokens of the answer.
        named: a target or contrast that the caller named too, which does not go together.

    Raises:
        InputError: no language model, a target beside the answer, an answer without any token, or a prompt and answer
            that are too long together.
        ModelError: the model takes no embeddings.
    """
    if task != "text-generation":
        raise InputError(f"answer = {count}: a {task} model writes no answer; leave it out")
    if named is not None:
        raise InputError(
            f"answer = {count} explains what the model itself writes: leave target and contrast out"
        )
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise ModelError(f"{type(model).__name__} takes no embeddings: only its next token can be explained")
    size, most = tokens.inputs["input_ids"].shape[1], getattr(model.config, "max_position_embeddings", None)
    if most is not None and size + count > most:
        raise InputError(
            f"the text has {size:,} tokens, with an answer of {count:,} over the model's {most:,}"
        )
    ends = getattr(model.config, "eos_token_id", None)
    stops = set(ends) if isinstance(ends, (list, tuple)) else {ends}
    ids = tokens.inputs["input_ids"]
    found: list[int] = []
    with torch.no_grad():
        while len(found) < count:
            rest = torch.tensor([found], dtype=ids.dtype, device=ids.device)
            logits = model(input_ids=torch.cat([ids, rest], dim=1), use_cache=False).logits[0, -1]
            token = int(logits.argmax())
            if token in stops:
                break
            found.append(token)
    if not found:
        raise InputError("the model ends right here: it has no answer to explain")
    target = Target(found[0], str(processor.decode(found)), "answer", "", float("nan"), answer=tuple(found))
    embeddings = model.get_input_embeddings()(ids)  # type: ignore[operator]
    with torch.no_grad():
        likely = target.probability(answer_logits(model, tokens, embeddings, target.answer)).item()
    return Target(found[0], target.name, "answer", target.name, likely, answer=target.answer)


def answer_logits(model: nn.Module, tokens: Tokens, embeddings: Tensor, answer: tuple[int, ...]) -> Tensor:
    """Logits [B, answer, vocabulary], float32, at the places that predict the answer's tokens.

    Args:
        model: a causal language model.
        tokens: the prompt.
        embeddings: [B, N, D] in the place of the prompt's own.
        answer: ids.
    """
    given = torch.tensor([answer[:-1]], dtype=torch.long, device=embeddings.device)
    tail = model.get_input_embeddings()(given).to(embeddings.dtype)  # type: ignore[operator]
    whole = torch.cat([embeddings, tail.expand(len(embeddings), -1, -1)], dim=1)
    names = set(inspect.signature(model.forward).parameters)
    inputs: dict[str, Any] = {}
    if "attention_mask" in tokens.inputs:
        mask = tokens.inputs["attention_mask"]
        rest = mask.new_ones(1, len(answer) - 1)
        inputs["attention_mask"] = torch.cat([mask, rest], dim=1).expand(len(embeddings), -1)
    inputs |= {"use_cache": False} if "use_cache" in names else {}
    inputs |= {"logits_to_keep": len(answer)} if "logits_to_keep" in names else {}
    logits: Tensor = model(inputs_embeds=whole, **inputs).logits
    return logits[:, -len(answer) :].float()
