"""Whisper: seconds of a recording instead of pixels of a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from probe.errors import InputError, ModelError
from probe.families.vision._settings import read, required
from probe.record import strings

KINDS = {"WhisperFeatureExtractor": ("sampling_rate", "hop_length", "n_fft", "chunk_length")}
#: Two convolutions of width 3: the first at every frame of the spectrogram, the second at every second one.
STRIDE, REACH = 2, 2


def patches(config: Any, inputs: Mapping[str, Any], images: Sequence[Any], settings: object) -> xr.Dataset:
    """The positions of the encoder: one sample per recording. See `probe.families.vision.patches`."""
    stated = read(settings, "feature_extractor", KINDS)
    rate, hop, window = (stated.number(name) for name in ("sampling_rate", "hop_length", "n_fft"))
    if any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 for n in images):
        raise InputError(f"images: got {list(images)!r}, expected the number of samples of each recording")
    count = int(config.max_source_positions)
    shape = required(inputs, "input_features", 3).shape
    if shape[0] != len(images) or shape[2] != STRIDE * count:
        raise InputError(
            f"input_features: got {list(shape)}, expected {len(images)} recordings of {STRIDE * count} frames"
        )
    chunk = stated.number("chunk_length") * rate
    if chunk != STRIDE * count * hop:
        raise ModelError(
            f"whisper: {chunk} samples a chunk do not make {STRIDE * count} frames {hop} samples apart"
        )
    if any(n > chunk for n in images):
        raise InputError(
            f"images: got {max(images)} samples, expected at most {chunk}; cut the recording into chunks"
        )
    middle = np.arange(count) * STRIDE * hop / rate
    half, reach = STRIDE * hop / rate / 2, (REACH * hop + window / 2) / rate
    ends = np.array(images)[:, None] / rate
    lines = np.concatenate([[0.0], middle[1:] - half, [chunk / rate]])
    start, end = lines[:-1], lines[1:]
    inside = np.clip(np.minimum(end, ends) - start, 0.0, None) / (end - start)
    columns = {
        "image": np.tile(np.arange(len(images), dtype=np.int32)[:, None], (1, count)),
        "row": np.full((len(images), count), -1, dtype=np.int32),
        "column": np.tile(np.arange(count, dtype=np.int32), (len(images), 1)),
        "start_s": np.tile(start, (len(images), 1)),
        "end_s": np.tile(end, (len(images), 1)),
        "reach_start_s": np.tile(middle - reach, (len(images), 1)),
        "reach_end_s": np.tile(middle + reach, (len(images), 1)),
        "inside": inside,
        "role": strings(np.full((len(images), count), "frame").tolist()),
    }
    table = xr.Dataset({name: (("sample", "token"), values) for name, values in columns.items()})
    for name, meaning in (
        ("start_s", "the position's own stretch of the recording"),
        ("end_s", "the end of that stretch"),
        ("reach_start_s", "where the sound begins that can change the position's input"),
        ("reach_end_s", "where it ends"),
    ):
        table[name].attrs = {"unit": "s", "meaning": meaning}
    table["inside"].attrs = {
        "meaning": "share of the stretch that is recording and not the silence that fills the chunk"
    }
    return table
