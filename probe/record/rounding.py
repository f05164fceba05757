"""Bit rounding: fewer digits where they are not needed, so that a record takes less room.

The mantissa is rounded to nearest, ties to even, and ends in zeros, which a compressor takes away (Zender 2016, Bit Grooming;
Klöwer et al. 2021, Compressing atmospheric data into its real information content).
"""

from typing import Any

import numpy as np

from probe.errors import InputError

Array = np.ndarray[Any, Any]
_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def check_bits(bits: int | None) -> None:
    """Check a number of mantissa bits to keep.

    Raises:
        InputError: not from 1 to 23.
    """
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 23):
        raise InputError(
            f"keep_bits: got {bits!r}, expected 1 to 23 bits of a float32's mantissa, or None for all of them"
        )


def round_bits(values: Array, bits: int) -> Array:
    """Floats with mantissas of `bits` bits.

    Args:
        values: float16, float32 or float64; a mantissa of no more than `bits` bits stays as it is.
        bits: explicit bits of the mantissa that are kept, at least 1.

    Returns:
        Values that differ by at most the part `2 ** -(bits + 1)` of themselves. NaN, infinities, subnormal numbers and what
        would round to infinity are left as they are.
    """
    drop = np.finfo(values.dtype).nmant - bits
    if drop <= 0:
        return values
    kind = _UNSIGNED[values.dtype.itemsize]
    raw = np.ascontiguousarray(values).view(kind)
    odd = (raw >> kind(drop)) & kind(1)
    up = raw + (kind((1 << (drop - 1)) - 1) + odd)
    rounded = (up >> kind(drop) << kind(drop)).view(values.dtype)
    normal = np.abs(values) >= np.finfo(values.dtype).smallest_normal
    return np.where(normal & np.isfinite(values) & np.isfinite(rounded), rounded, values)


def described(bits: int | None) -> dict[str, Any]:
    """What a rounded variable says of itself."""
    return {} if bits is None else {"keep_bits": bits, "relative_rounding": 2.0 ** -(bits + 1)}
