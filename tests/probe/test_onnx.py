"""Weights out of an ONNX file: a small model encoded by hand, field by field."""

import numpy as np
import pytest
import torch

from probe import ModelError
from probe.nets.onnx import read_tensors


def varint(number):
    out = b""
    while True:
        number, low = number >> 7, number & 127
        out += bytes([low | (128 if number else 0)])
        if not number:
            return out


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name, array, *, packed=False):
    shape = b"".join(varint(n) for n in array.shape)
    dims = field(1, shape) if packed else b"".join(field(1, n) for n in array.shape)
    kind = 1 if array.dtype == np.float32 else 7
    return field(5, dims + field(2, kind) + field(8, name) + field(9, array.tobytes()))


def node(kind, inputs, outputs):
    return field(
        1, b"".join(field(1, i) for i in inputs) + b"".join(field(2, o) for o in outputs) + field(4, kind)
    )


def model(*parts):
    return field(1, 8) + field(2, "by hand") + field(7, b"".join(parts))


def test_names_shapes_and_matrices_without_a_name(tmp_path):
    rng = np.random.default_rng(0)
    matrix, bias, other = (rng.normal(size=s).astype(np.float32) for s in ((3, 200), (200,), (2, 2)))
    path = tmp_path / "a.onnx"
    path.write_bytes(
        model(
            tensor("layer.bias", bias), tensor("onnx::MatMul_12", matrix, packed=True), tensor("onnx::MatMul_13", other),
            tensor("count", np.arange(3)),
            node("MatMul", ["x", "onnx::MatMul_12"], ["y"]), node("Add", ["layer.bias", "y"], ["z"]),
            node("MatMul", ["z", "onnx::MatMul_13"], ["w"]), node("Add", ["w", "z"], ["v"]),
        )
    )  # fmt: skip
    found = read_tensors(path)
    assert set(found) == {"layer.bias", "layer.weight", "onnx::MatMul_13"}
    assert torch.equal(found["layer.weight"], torch.from_numpy(matrix.T.copy()))
    assert torch.equal(found["layer.bias"], torch.from_numpy(bias))
    assert found["layer.weight"].is_contiguous()


def test_files_that_are_none(tmp_path):
    whole = model(tensor("a", np.zeros(100, np.float32)))
    for name, data in {
        "empty": b"",
        "cut": whole[:-50],
        "text": b"no protobuf at all",
        "zip": b"PK\x03\x04" * 9,
    }.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(ModelError, match="no ONNX model") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no ONNX model"):
        read_tensors(tmp_path / "none.onnx")
