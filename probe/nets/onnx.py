"""The weights of an ONNX file, read without the onnx package: a protobuf reader of the few fields that carry them.

Wire format: Protocol Buffers encoding guide; field numbers: onnx.proto (ModelProto.graph 7; GraphProto.node 1, initializer 5;
NodeProto.input 1, output 2, op_type 4; TensorProto.dims 1, data_type 2, name 8, raw_data 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_FLOAT = 1


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named float32 tensors of a model.

    A matrix that the exporter left without a name of its own (`onnx::MatMul_…`) gets that of the bias which is added to its
    product, `….bias` → `….weight`, and is turned to torch's (out, in).

    Raises:
        ModelError: The file cannot be read, or is no ONNX model.
    """
    import numpy
    import torch

    tensors: dict[str, Any] = {}
    product_of: dict[str, str] = {}
    sums: list[list[str]] = []
    try:
        graph = next(value for field, value in _fields(memoryview(path.read_bytes())) if field == 7)
        for field, value in _fields(graph):
            if field == 5:
                name, array = _tensor(value, numpy)
                if array is not None:
                    tensors[name] = array
            elif field == 1:
                inputs, outputs, kind = _node(value)
                if kind == "MatMul":
                    product_of[outputs[0]] = inputs[1]
                elif kind == "Add":
                    sums.append(inputs)
    except (OSError, StopIteration, IndexError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path.name} is no ONNX model that can be read: {error or type(error).__name__}"
        ) from error
    for inputs in sums:
        for bias, product in (inputs, inputs[::-1]):
            matrix = product_of.get(product, "")
            if bias.endswith(".bias") and matrix in tensors and matrix.startswith("onnx::"):
                tensors[bias.removesuffix("bias") + "weight"] = tensors.pop(matrix).T
    return {name: torch.from_numpy(array.copy(order="C")) for name, array in tensors.items()}


def _node(data: memoryview) -> tuple[list[str], list[str], str]:
    found: dict[int, list[str]] = {1: [], 2: [], 4: []}
    for field, value in _fields(data):
        if field in found:
            found[field].append(bytes(value).decode())
    return found[1], found[2], found[4][0]


def _tensor(data: memoryview, numpy: Any) -> tuple[str, Any]:
    """Name and array; None for what is not float32 in raw bytes."""
    shape: list[int] = []
    name, raw, kind = "", None, 0
    for field, value in _fields(data):
        if field == 1:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif field == 2:
            kind = value
        elif field == 8:
            name = bytes(value).decode()
        elif field == 9:
            raw = value
    if kind != _FLOAT or raw is None:
        return name, None
    return name, numpy.frombuffer(raw, dtype="<f4").reshape(shape)


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: ints as they are, everything with a length as its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind}")
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + size > len(data):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, data[at : at + size]
        at += size


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
