"""A mask that is made row by row, and sdpa attention under it: no N×N tensor.

`LazyMask` stands for what `sdpa_mask` would have made; `attend` runs the user's own sdpa function on blocks of
query rows, each with its rows of the mask. The outputs are those of the dense mask to the bit: on a CPU the flash
kernel computes each split of the queries by itself (256 rows where a call has 768 or more, else fewer), so every
block begins at a multiple of 768 and has at least as many rows. Measured with torch 2.13 in float32, bfloat16,
float16 and float64, on a CPU without AMX.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.errors import ModelError

#: Rows of a block; the last block has up to twice as many.
ROWS = 768

_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor"
_SPECIAL = f"{_OPERATORS} eq ne lt le gt ge bool len iter float int index invert neg abs getitem setitem contains array"


class LazyMask:
    """The mask that `sdpa_mask` would have made of its arguments; any block of its rows on demand.

    Only attention may read it: whatever else is done with it raises a ModelError.

    Args:
        make: `sdpa_mask`.
        arguments: what it was called with.
        owner: the class that asked for the mask, for messages.
    """

    def __init__(self, make: Callable[..., Tensor], arguments: Mapping[str, Any], owner: str) -> None:
        self._make, self._arguments, self._owner = make, dict(arguments), owner

    def fits(self, n_queries: int, n_keys: int) -> bool:
        """Whether it has the rows and at least the keys of a call."""
        return bool(self._arguments["q_length"] == n_queries and self._arguments["kv_length"] >= n_keys)

    def rows(self, rows: range, sample: int | None = None) -> Bool[Tensor, "B 1 rows keys"]:
        """These rows of the dense mask, of all samples or of one."""
        given = dict(self._arguments)
        given |= {"q_length": len(rows), "q_offset": given.get("q_offset", 0) + rows.start}
        given |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        if sample is not None:
            rule, padding = given["mask_function"], given.get("attention_mask")
            given["mask_function"] = lambda b, h, q, k: rule(b + sample, h, q, k)
            given["attention_mask"] = None if padding is None else padding[sample : sample + 1]
            given["batch_size"] = 1
        return self._make(**given)

    def refuse(self, what: str) -> NoReturn:
        """Raise the ModelError that names the model's class and what was done with the mask."""
        raise ModelError(
            f"{self._owner}: {what} the attention mask, which is made row by row for an input of this length; "
            "expected that sdpa attention alone reads it. Give a shorter input, or use eager attention"
        )

    def __getattr__(self, name: str) -> NoReturn:
        self.refuse(f"something asked for .{name} of")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        """No operation of torch knows this mask."""
        found = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, cls)]
        mask = found[0] if found else cls(torch.empty, {}, "the model")
        mask.refuse(f"torch's {getattr(func, '__name__', func)} got")


def _refusal(name: str) -> Callable[..., NoReturn]:
    return lambda self, *_: self.refuse(f"something used {name} on")


for _name in [*_SPECIAL.split(), *(f"r{n}" for n in _OPERATORS.split())]:
    setattr(LazyMask, f"__{_name}__", _refusal(f"__{_name}__"))


def attend(
    function: Callable[..., Any],
    module: torch.nn.Module,
    arguments: Mapping[str, Any],
    positional: Sequence[Any] = (),
) -> tuple[Tensor, None]:
    """The user's sdpa function on blocks of query rows.

    Args:
        function: what was to be called with the mask.
        module: the attention module.
        arguments: of the call, by name; the mask is a `LazyMask`.
        positional: arguments that came after the mask, without a name.

    Returns:
        What the function would have returned: the output [B, Nq, H, Dv], and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    others = dict(arguments)
    query, key, value, mask = (others.pop(n) for n in ("query", "key", "value", "attention_mask"))
    count = query.shape[2]
    if function is not sdpa_attention_forward or not mask.fits(count, key.shape[2]):
        mask.refuse(f"{type(module).__name__} ({count} queries, {key.shape[2]} keys) gave its own function")
    parts = []
    for start in range(0, max(1, count // ROWS) * ROWS, ROWS):
        rows = range(start, start + ROWS if count - start >= 2 * ROWS else count)
        block = query[:, :, rows.start : rows.stop]
        parts.append(function(module, block, key, value, mask.rows(rows), *positional, **others)[0])
    return torch.cat(parts, 1), None
