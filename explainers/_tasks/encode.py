"""Prompts and choices as token ids: what all choices of an item share is read once, the rest is scored."""

from dataclasses import dataclass
from typing import Any

from probe.errors import InputError
from probe.explainers._tasks.items import Item

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """Token ids of an item: `prompt`, which is only read, and behind it each choice, which is scored."""

    prompt: Ids
    choices: tuple[Ids, ...]


def encode(item: Item, tokenizer: Any, prefix: Ids, limit: int | None) -> Encoded:
    """Cut an item into tokens.

    Prompt and choice are tokenized together, as the model would meet them. Where the last characters of the prompt melt
    into one token with the choice, that token is scored with every choice: the choices' scores stay comparable, since
    each covers the same text beyond the shared tokens.

    Args:
        item: the item.
        tokenizer: of the model.
        prefix: what the tokenizer puts before every text (`first_ids`).
        limit: most tokens that the model takes; None if unknown.

    Raises:
        InputError: nothing is left to read before the choices, two choices have the same tokens, or the item is too long.
    """
    alone = prefix + _ids(tokenizer, item.prompt)
    whole = [prefix + _ids(tokenizer, item.prompt + choice) for choice in item.choices]
    shared = min(_common(alone, ids) for ids in whole)
    choices = tuple(ids[shared:] for ids in whole)
    if shared == 0:
        raise InputError(
            f"{item.where}: the whole prompt melts into one token with a choice; give a longer prompt, or choices that "
            "begin with a blank"
        )
    if len(set(choices)) < len(choices) or not all(choices):
        raise InputError(
            f"{item.where}: choices: {list(item.choices)} are not all different to the tokenizer"
        )
    longest = max(len(ids) for ids in whole)
    if limit is not None and longest > limit:
        raise InputError(f"{item.where}: has {longest} tokens, the model takes at most {limit}: shorten it")
    return Encoded(alone[:shared], choices)


def first_ids(tokenizer: Any) -> Ids:
    """The special tokens that stand before every text of this tokenizer, such as <s>."""
    with_special, bare = _ids(tokenizer, "a", special=True), _ids(tokenizer, "a")
    for start in range(len(with_special) - len(bare) + 1):
        if with_special[start : start + len(bare)] == bare:
            return with_special[:start]
    return ()


def _ids(tokenizer: Any, text: str, *, special: bool = False) -> Ids:
    return tuple(tokenizer(text, add_special_tokens=special)["input_ids"])


def _common(a: Ids, b: Ids) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
