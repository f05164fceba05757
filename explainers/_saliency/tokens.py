"""A text as the model sees it: ids, and for each token the piece of the text that it stands for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe.errors import InputError, ModelError


@dataclass(frozen=True, eq=False)
class Tokens:
    """One tokenized text. `pieces` of the tokens with role "text" join to the text itself."""

    inputs: dict[str, Tensor]  # input_ids, attention_mask and what else the model takes, each [1, N]
    pieces: list[str]
    roles: list[str]
    start: NDArray[np.int32]  # character offsets in the text, -1 for special tokens
    end: NDArray[np.int32]

    @property
    def places(self) -> NDArray[np.int64]:
        """Indices of the text tokens."""
        return np.flatnonzero(np.array(self.roles) == "text")


def tokenize(processor: Any, text: str, accepted: set[str], device: torch.device) -> Tokens:
    """Tokenize one text and cut it into its pieces.

    Args:
        processor: a fast Hugging Face tokenizer (offsets are needed).
        text: not empty.
        accepted: names of inputs that the model takes.
        device: where the ids go.

    Raises:
        InputError: not a text, empty, without any token, or of unknown tokens only.
        ModelError: the tokenizer gives no offsets.
    """
    if not isinstance(text, str):
        raise InputError(f"expected one text (str), got {type(text).__name__}")
    if not text.strip():
        raise InputError("the text is empty: give at least one word")
    if not getattr(processor, "is_fast", False):
        raise ModelError(
            f"{type(processor).__name__} gives no offsets; a fast tokenizer (tokenizer.json) is needed"
        )
    coded = processor(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    ids, offsets = coded["input_ids"], coded["offset_mapping"]
    special = [bool(flag) for flag in coded["special_tokens_mask"]]
    words = [token for token, hidden in zip(ids, special, strict=True) if not hidden]
    if not words:
        raise InputError(f"no token of the model's vocabulary stands for {text[:40]!r}")
    if processor.unk_token_id is not None and all(token == processor.unk_token_id for token in words):
        raise InputError(
            f"every token of {text[:40]!r} is unknown to the model's vocabulary: there is nothing to explain"
        )
    names = processor.convert_ids_to_tokens(ids)
    inputs = {
        name: torch.tensor([values], device=device) for name, values in coded.items() if name in accepted
    }
    inputs["input_ids"] = torch.tensor([ids], device=device)
    edges = np.array(
        [(-1, -1) if hidden else edge for edge, hidden in zip(offsets, special, strict=True)], dtype=np.int32
    )
    roles = ["special" if hidden else "text" for hidden in special]
    return Tokens(inputs, _pieces(text, offsets, special, names), roles, edges[:, 0], edges[:, 1])


def _pieces(text: str, offsets: list[tuple[int, int]], special: list[bool], names: list[str]) -> list[str]:
    """Cut the text at the tokens' ends; what lies between two tokens goes to the second, a rest to the last.

    Bytes of one character that are several tokens share its offsets: the first carries the character, the
    others "".
    """
    pieces, done = list(names), 0
    last = max(i for i, hidden in enumerate(special) if not hidden)
    for i, ((_, stop), hidden) in enumerate(zip(offsets, special, strict=True)):
        if not hidden:
            stop = len(text) if i == last else max(stop, done)
            pieces[i], done = text[done:stop], stop
    return pieces
