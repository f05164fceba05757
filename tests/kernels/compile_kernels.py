"""Compile the kernels ahead of time and print one line of JSON; run by test_compile.py in a process of its own."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from probe.kernels.column_pass.triton import _column_kernel
from probe.kernels.launch import blocks
from probe.kernels.row_pass.triton import _row_kernel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
POINTERS = {
    "SINK": "fp32", "LSE": "fp32", "ENTROPY": "fp32", "MAX_PROB": "fp32", "MAX_KEY": "i64", "DISTANCE": "fp32",
    "MOMENT": "fp32", "KEY_MASS": "fp32", "MASS": "fp32", "WEIGHTS": "fp32", "origin": "i32", "groups": "i32",
    "slopes": "fp32", "table": "fp32", "key_valid": "u8", "span": "i32",
}  # fmt: skip
FLOATS = ("scale", "softcap")
VARIANTS = {
    "causal": {"CAUSAL"},
    "all": {
        "CAUSAL",
        "WINDOW",
        "CHUNK",
        "GROUPS",
        "SOFTCAP",
        "SLOPES",
        "TABLE",
        "KEY_VALID",
        "HAS_SINK",
        "WEIGHTED",
    },
}


def source(kernel, sweep, dtype, size, flags):
    shape = blocks(sweep, DTYPES[dtype], size, interpreted=False)
    fixed = {"SIZE": size, "D": shape.D, "M": shape.M, "N": shape.N, "UPCAST": False}
    signature, constants, attributes = {}, {}, {}
    for at, name in enumerate(kernel.arg_names):
        if name in ("Q", "K") or name in POINTERS:
            signature[name] = f"*{POINTERS.get(name, dtype)}"
            attributes[(at,)] = [["tt.divisibility", 16]]
        elif name.isupper():
            signature[name] = "constexpr"
            constants[name] = fixed.get(name, name.startswith("W_") or name in flags)
        elif name in FLOATS:
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes), shape.options


report = []
for sweep, kernel in (("row", _row_kernel), ("column", _column_kernel)):
    for arch in (80, 90):
        for dtype, size, variant in (
            ("bf16", 64, "causal"),
            ("bf16", 128, "all"),
            ("fp16", 128, "causal"),
            ("fp32", 64, "all"),
        ):
            src, options = source(kernel, sweep, dtype, size, VARIANTS[variant])
            built = triton.compile(src, target=GPUTarget("cuda", arch, 32), options=options)
            report.append(
                {
                    "kernel": sweep, "arch": arch, "dtype": dtype, "variant": variant, "cubin": len(built.asm["cubin"]),
                    "shared": built.metadata.shared, "wgmma": built.asm["ptx"].count("wgmma.mma_async"),
                }
            )  # fmt: skip
print(json.dumps(report))
