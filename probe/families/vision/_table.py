"""Tables of positions: where in which picture each of them lies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from probe.errors import InputError
from probe.families.vision._canvas import Grid
from probe.record import strings

Index = NDArray[np.int64]
#: One column of each kind per position: whole numbers (−1 where there is none), real ones (NaN where there is none), role.
Block = dict[str, NDArray[Any]]

NUMBERS = ("image", "frame", "frame_end", "tile", "row", "column")
REALS = ("x0", "y0", "x1", "y1", "inside")
MEANINGS = {
    "image": "number of the picture (or video), in order of appearance",
    "frame": "first frame of the video that the position shows, as the processor took them",
    "frame_end": "frame after the last one that it shows",
    "tile": "number of the tile of the picture, row by row; -1 is the whole picture",
    "row": "row in the grid of the picture or tile",
    "column": "column in the grid of the picture or tile",
    "inside": "share of the rectangle that is picture and not padding",
    "role": "what the position is",
}


def cells(grid: Grid, role: str = "patch", **numbers: int) -> Block:
    """The patches of a grid, row by row.

    Args:
        grid: their lines.
        role: what they are.
        numbers: image, frame, frame_end, tile: the same for all of them.
    """
    rows, columns = grid.shape
    row, column = (a.ravel() for a in np.indices((rows, columns)))
    block = _empty(rows * columns, role, numbers)
    block["row"], block["column"] = row.astype(np.int32), column.astype(np.int32)
    block["x0"], block["x1"] = grid.x[column], grid.x[column + 1]
    block["y0"], block["y1"] = grid.y[row], grid.y[row + 1]
    block["inside"] = grid.share_y[row] * grid.share_x[column]
    return block


def marks(role: str, count: int = 1, **numbers: int) -> Block:
    """Positions without a place in a picture."""
    return _empty(count, role, numbers)


def _empty(count: int, role: str, numbers: dict[str, int]) -> Block:
    block: Block = {name: np.full(count, numbers.get(name, -1), dtype=np.int32) for name in NUMBERS}
    block |= {name: np.full(count, np.nan) for name in REALS}
    block["role"] = np.full(count, role, dtype=object)
    return block


def join(blocks: Sequence[Block]) -> Block:
    """One after the other."""
    return {name: np.concatenate([block[name] for block in blocks]) for name in (*NUMBERS, *REALS, "role")}


def take(block: Block, index: Index) -> Block:
    """Some of the positions, in the order of `index`."""
    return {name: values[index] for name, values in block.items()}


def length(block: Block) -> int:
    """How many positions."""
    return len(block["role"])


def dataset(samples: Sequence[Block]) -> xr.Dataset:
    """A table over (sample, token); shorter samples are filled up with positions of the role "pad"."""
    longest = max(length(block) for block in samples)
    full = [join([block, marks("pad", longest - length(block))]) for block in samples]
    over = ("sample", "token")
    table = xr.Dataset(
        {name: (over, np.stack([block[name] for block in full])) for name in (*NUMBERS, *REALS)}
    )
    table["role"] = (over, strings([block["role"].tolist() for block in full]))
    for name in table.data_vars:
        unit = {"unit": "pixel"} if name in REALS[:4] else {}
        table[name].attrs = {
            **unit,
            "meaning": MEANINGS.get(str(name), "edge of the rectangle in the original picture"),
        }
    return table


def placed(ids: NDArray[Any], features: dict[int, Block], markers: dict[int, str], count: int) -> xr.Dataset:
    """Put what a vision tower hands over on the places of a text that hold it.

    Args:
        ids: token ids, [B, N].
        features: for each placeholder's id what is put there, in order, prompt after prompt.
        markers: ids of tokens around the places, and their roles.
        count: how many pictures there are.

    Returns:
        A table over (sample, token); a token that has to do with no picture has role "".

    Raises:
        InputError: another number of places than of features, a picture that lies in two prompts, or pictures in another
            order than they were given.
    """
    if ids.ndim != 2:
        raise InputError(f"input_ids: got shape {list(ids.shape)}, expected [batch, tokens]")
    text = marks("", ids.size)
    flat = ids.ravel()
    for token, role in markers.items():
        text["role"][flat == token] = role
    for token, block in features.items():
        where = np.flatnonzero(flat == token)
        if len(where) != length(block):
            raise InputError(
                f"input_ids: got {len(where)} image tokens ({token}), expected {length(block)} for these pictures; "
                "give the ids and sizes of the same prompt"
            )
        for name, values in block.items():
            text[name][where] = values
    _check_order(text["image"], ids.shape[1], count)
    return dataset([take(text, np.arange(ids.shape[1]) + ids.shape[1] * n) for n in range(len(ids))])


def _check_order(image: NDArray[np.int32], width: int, count: int) -> None:
    first = [np.flatnonzero(image == n) for n in range(count)]
    for n, where in enumerate(first):
        if len(where) and where[0] // width != where[-1] // width:
            raise InputError(f"input_ids: the tokens of image {n} lie in two prompts, expected them in one")
    starts = [where[0] for where in first if len(where)]
    if starts != sorted(starts):
        raise InputError("images: got the sizes in another order than the pictures appear in the prompts")
