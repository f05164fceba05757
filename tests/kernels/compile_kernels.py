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
from probe.kernels.score_tile import Flags, Rules, View

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
POINTERS = {
    "SINK": "fp32", "LSE": "fp32", "ENTROPY": "fp32", "EFFECTIVE": "fp32", "MAX_PROB": "fp32", "MAX_KEY": "i64",
    "DISTANCE": "fp32", "MOMENT": "fp32", "KEY_MASS": "fp32", "MASS": "fp32", "WEIGHTS": "fp32",
}  # fmt: skip
RULES = Rules(
    n_queries="i32", n_keys="i32", offset="i32", before="i32", positions="i32", scale="fp32", window="i32", chunk="i32", origin="*i32", groups="*i32",
    starts="*i32", ends="*i32", softcap="fp32", slopes="*fp32", table="*fp32", reach="i32", key_valid="*u8", span="*i32",
)  # fmt: skip
CAUSAL = Flags(True, *[False] * (len(Flags._fields) - 1))
ALL = Flags(*[True] * len(Flags._fields))._replace(UPCAST=False)


def source(kernel, sweep, dtype, size, flags):
    shape = blocks(sweep, DTYPES[dtype], size, interpreted=False)
    fixed = {"SIZE": size, "D": shape.D, "M": shape.M, "N": shape.N, "F": flags}
    signature, constants, attributes = {}, {}, {}
    for at, name in enumerate(kernel.arg_names):
        if name in ("Q", "K"):
            signature[name] = View(f"*{dtype}", "i32", "i32", "i32")
            attributes |= {(at, part): [["tt.divisibility", 16]] for part in range(4)}
        elif name == "rules":
            signature[name] = RULES
        elif name in POINTERS:
            signature[name] = f"*{POINTERS[name]}"
            attributes[(at,)] = [["tt.divisibility", 16]]
        elif name.isupper():
            signature[name] = "constexpr"
            constants[name] = fixed.get(name, name.startswith("W_") or flags is ALL)
        else:
            signature[name] = "i32"
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes), shape.options


report = []
for sweep, kernel in (("row", _row_kernel), ("column", _column_kernel)):
    for arch in (80, 90):
        for dtype, size, variant in (
            ("bf16", 64, CAUSAL),
            ("bf16", 128, ALL),
            ("fp16", 128, CAUSAL),
            ("fp32", 64, ALL),
        ):
            src, options = source(kernel, sweep, dtype, size, variant)
            built = triton.compile(src, target=GPUTarget("cuda", arch, 32), options=options)
            report.append(
                {
                    "kernel": sweep, "arch": arch, "dtype": dtype, "variant": "all" if variant is ALL else "causal",
                    "cubin": len(built.asm["cubin"]), "shared": built.metadata.shared,
                    "wgmma": built.asm["ptx"].count("wgmma.mma_async"),
                }
            )  # fmt: skip
print(json.dumps(report))
