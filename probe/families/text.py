"""Texts and tokens of language models: no silent truncation, and pieces that join back to the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe.errors import InputError
from probe.positions import Positions
from probe.record import strings

Row = list[tuple[str, int, str, int, int]]  # piece, id, role, start, end


@dataclass(frozen=True, eq=False)
class Prepared:
    """An input ready for a model, and what its positions are.

    Attributes:
        inputs: keyword arguments of the model's forward.
        positions: what is known of the input's positions, by the name of their group.
        texts: the text of each sample; None where it is not known.
        main: the group that the texts' tokens are: "tokens", or "source" where an encoder reads them.
    """

    inputs: dict[str, Any]
    positions: dict[str, Positions]
    texts: list[str] | None
    main: str = "tokens"

    @property
    def valid(self) -> Tensor:
        """False where a token is padding, [B, N] bool."""
        return self.positions[self.main].valid

    @property
    def tokens(self) -> xr.Dataset:
        """The texts' tokens, as the record holds them."""
        return self.positions[self.main].dataset


def encode(
    texts: Sequence[str], tokenizer: Any, limit: int | None, device: torch.device, group: str = "tokens"
) -> Prepared:
    """Tokenize texts, padded on the tokenizer's own side.

    Args:
        texts: one or more texts.
        tokenizer: a Hugging Face tokenizer.
        limit: most tokens that the model takes; None if unknown.
        device: where the tensors go.
        group: of positions that the tokens are.

    Raises:
        InputError: an empty text, a text of unknown tokens only, or one that is too long.
    """
    rows = []
    for number, text in enumerate(texts):
        which = f"text {number}" if len(texts) > 1 else "the text"
        if not isinstance(text, str):
            raise InputError(f"{which}: got {type(text).__name__}, expected a str")
        if not text.strip():
            raise InputError(f"{which} is empty; expected at least one character that is not a space")
        row = _row(text, tokenizer)
        if tokenizer.unk_token_id is not None and _only_unknown(row, tokenizer):
            raise InputError(f"{which} holds nothing that the tokenizer knows (only {tokenizer.unk_token!r})")
        if limit is not None and len(row) > limit:
            raise InputError(
                f"{which} has {len(row)} tokens ({len(text)} characters), the model takes at most {limit}; "
                "shorten it"
            )
        rows.append(row)
    left = getattr(tokenizer, "padding_side", "right") == "left"
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    rows, valid = _pad(rows, pad, left)
    inputs = {
        "input_ids": torch.tensor([[piece[1] for piece in row] for row in rows], device=device),
        "attention_mask": torch.tensor(valid, dtype=torch.long, device=device),
    }
    if "token_type_ids" in getattr(tokenizer, "model_input_names", ()):
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    positions = Positions(group, inputs["attention_mask"].bool(), _dataset(rows, valid))
    return Prepared(inputs, {group: positions}, list(texts), group)


def describe(inputs: Mapping[str, Any], tokenizer: Any | None, group: str = "tokens") -> Prepared:
    """Say what the positions of prepared inputs are.

    Args:
        inputs: keyword arguments of a model's forward, with `input_ids` or `inputs_embeds` [B, N, …] and,
            where positions are padding, a two-dimensional `attention_mask` of 0 and 1.
        tokenizer: to read the ids; without it a token reads as its number.
        group: of positions that the ids are: "source" where an encoder reads them (then `decoder_input_ids` and
            `decoder_attention_mask` are the "tokens"), else "tokens".

    Raises:
        InputError: neither ids nor embeddings, or a mask that does not fit them.
    """
    past = inputs.get("past_key_values")
    if past is not None and (not hasattr(past, "get_seq_length") or past.get_seq_length()):
        raise InputError("inputs: past_key_values is filled; give the whole sequence without a cache")
    positions, texts = {}, None
    sides = [("", group), *([("decoder_", "tokens")] if group != "tokens" else [])]
    for prefix, side in sides:
        given = inputs.get(f"{prefix}input_ids", inputs.get(f"{prefix}inputs_embeds"))
        if given is None and (prefix or (group != "tokens" and "decoder_input_ids" in inputs)):
            continue  # the encoder reads pictures or sounds, or the decoder makes its own ids
        if not isinstance(given, Tensor) or given.ndim < 2 or 0 in given.shape:
            raise InputError(
                f"inputs: got {', '.join(map(str, inputs)) or 'nothing'}, expected {prefix}input_ids [batch, tokens], "
                "not empty"
            )
        valid = _valid(inputs.get(f"{prefix}attention_mask"), given)
        ids = given if f"{prefix}input_ids" in inputs else torch.full(given.shape[:2], -1)
        rows, found = _rows(ids, valid, tokenizer)
        positions[side] = Positions(side, valid, _dataset(rows, valid.tolist()))
        texts = found if side == group and tokenizer is not None else texts
    return Prepared(dict(inputs), positions, texts, group)


def _rows(ids: Tensor, valid: Tensor, tokenizer: Any | None) -> tuple[list[Row], list[str]]:
    """The tokens of each sample, and the text that they join to."""
    special = set() if tokenizer is None else _special(tokenizer)
    rows: list[Row] = []
    texts = []
    for row, flags in zip(ids.tolist(), valid.tolist(), strict=True):
        kept = [i for i, flag in zip(row, flags, strict=True) if flag]
        pieces = (
            [f"<{i}>" if i >= 0 else "<embedding>" for i in kept]
            if tokenizer is None
            else _read(kept, tokenizer)
        )
        places = iter(_places(pieces, known=tokenizer is not None))
        line: Row = []
        for i, flag in zip(row, flags, strict=True):
            piece, start, end = next(places) if flag else ("", -1, -1)
            role = "pad" if not flag else "special" if i in special else "text"
            line.append((piece, i, role, start, end))
        rows.append(line)
        texts.append("".join(pieces))
    return rows, texts


def _valid(mask: object, given: Tensor) -> Tensor:
    if (
        not isinstance(mask, Tensor) or mask.ndim != 2
    ):  # four-dimensional masks are proven against the rules instead
        return torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
    if mask.shape != given.shape[:2]:
        raise InputError(
            f"attention_mask: got shape {list(mask.shape)}, expected {list(given.shape[:2])} as the tokens"
        )
    if bool(((mask != 0) & (mask != 1)).any()):
        raise InputError(
            "attention_mask: got values besides 0 and 1 (packed sequences?); give a padded batch"
        )
    if not bool(mask.bool().any(dim=1).all()):
        raise InputError("attention_mask: one sample is all padding; expected at least one token in each")
    return mask.bool()


def _row(text: str, tokenizer: Any) -> Row:
    """The tokens of a text; each piece holds the characters since the last one, so that they join to it."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    code = tokenizer(
        text,
        truncation=False,
        padding=False,
        verbose=False,
        return_special_tokens_mask=True,
        return_offsets_mapping=fast,
    )
    ids, added, special = code["input_ids"], code["special_tokens_mask"], _special(tokenizer)
    if not fast:
        kinds = ["special" if a or i in special else "text" for i, a in zip(ids, added, strict=True)]
        return [(tokenizer.decode([i]), i, kind, -1, -1) for i, kind in zip(ids, kinds, strict=True)]
    own = [n for n, a in enumerate(added) if not a]
    row: Row = []
    reached = 0
    for n, (i, (_, end)) in enumerate(zip(ids, code["offset_mapping"], strict=True)):
        if added[n]:
            row.append((tokenizer.convert_ids_to_tokens(i), i, "special", -1, -1))
            continue
        end = len(text) if n == own[-1] else max(end, reached)
        row.append((text[reached:end], i, "special" if i in special else "text", reached, end))
        reached = end
    return row


def _special(tokenizer: Any) -> set[int]:
    """Ids of control tokens; the token for unknown words stands for text, unless it has another role too."""
    names = ("bos", "eos", "sep", "pad", "cls", "mask")
    controls = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    return {i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id or i in controls}


def _only_unknown(row: Row, tokenizer: Any) -> bool:
    return all(i == tokenizer.unk_token_id for _, i, role, _, _ in row if role == "text")


def _read(ids: list[int], tokenizer: Any) -> list[str]:
    """The pieces of a decoded sequence: exact where decoding and encoding agree, else token by token."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if getattr(tokenizer, "is_fast", False):
        code = tokenizer(
            text, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=True
        )
        if code["input_ids"] == ids:
            ends = np.maximum.accumulate([end for _, end in code["offset_mapping"]])
            ends[-1] = len(text)
            return [text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return [tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids]


def _places(pieces: list[str], *, known: bool) -> list[tuple[str, int, int]]:
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return [(p, e - len(p), e) if known else (p, -1, -1) for p, e in zip(pieces, ends, strict=True)]


def _pad(rows: list[Row], pad: int, left: bool) -> tuple[list[Row], list[list[bool]]]:
    length = max(len(row) for row in rows)
    padded, valid = [], []
    for row in rows:
        filler: Row = [("", pad, "pad", -1, -1)] * (length - len(row))
        padded.append(filler + row if left else row + filler)
        there, absent = [True] * len(row), [False] * len(filler)
        valid.append(absent + there if left else there + absent)
    return padded, valid


def _dataset(rows: list[Row], valid: list[list[bool]]) -> xr.Dataset:
    columns = [[[piece[c] for piece in row] for row in rows] for c in range(5)]
    over = ("sample", "token")
    return xr.Dataset(
        {
            "text": (over, strings(columns[0])),
            "id": (over, np.array(columns[1], dtype=np.int64)),
            "role": (over, strings(columns[2])),
            "start": (over, np.array(columns[3], dtype=np.int32)),
            "end": (over, np.array(columns[4], dtype=np.int32)),
            "valid": (over, np.array(valid, dtype=bool)),
        }
    )
