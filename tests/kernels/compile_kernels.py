"""Compile the kernels ahead of time and print one line of JSON; run by test_compile.py in a process of its own."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from probe.kernels import hopper as fast
from probe.kernels.column_pass import hopper as column
from probe.kernels.column_pass.triton import _column_kernel
from probe.kernels.launch import apply_blocks, column_blocks, row_blocks
from probe.kernels.nearest_patches.triton import _nearest_kernel
from probe.kernels.row_pass import hopper as row
from probe.kernels.row_pass.triton import Out, Wanted, _row_kernel
from probe.kernels.score_tile import Flags, Rules, View
from probe.kernels.sink_shift.triton import _shift_kernel
from probe.kernels.sink_shift.triton import shape_of as shift_shape
from probe.kernels.tile.triton import _tile_kernel
from probe.kernels.tile.triton import shape_of as tile_shape
from probe.kernels.top_links.triton import _links_kernel
from probe.kernels.top_links.triton import shape_of as links_shape

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
POINTERS = {
    "SINK": "fp32", "LSE": "fp32", "MASS": "fp32", "WEIGHTS": "fp32", "BITS": "i32",
    "SHIFT_OF": "fp32", "PRODUCT": "fp32", "CELLS": "fp32", "PIECE_OF": "i32", "EDGES": "i32", "CELL_OF": "i32",
    "HEADS": "i32", "ROWS": "i32", "KEYS": "i32", "SINKS": "u8", "KEEP": "u8", "SINCE": "i32", "HIDE": "fp32", "LIST": "i32",
    "COUNT": "i32", "BETA": "fp32", "REST": "fp32", "ACC": "fp32", "TOP": "fp32", "TOTAL": "fp32",
    "LINKS": "i64", "PROBS": "fp32",
}  # fmt: skip
RULES = Rules(
    n_queries="i32", n_keys="i32", offset="i32", before="i32", positions="i32", scale="fp32", window="i32", chunk="i32",
    origin="*i32", groups="*i32",
    starts="*i32", ends="*i32", softcap="fp32", slopes="*fp32", table="*fp32", reach="i32", key_valid="*u8", span="*i32",
)  # fmt: skip
CAUSAL = Flags(True, *[False] * (len(Flags._fields) - 1))
ALL = Flags(*[True] * len(Flags._fields))._replace(UPCAST=False)


def column_constants(size, flags):
    """The pooled sum beside the column mass, as at 128k tokens; or everything at once on cells smaller than a tile."""
    everything = flags is ALL
    return {
        "RECEIVED": True, "POOL": True, "MOST": False, "FINE": 4 if everything else 0, "PIECES": 4 if everything else 2,
        "CHANNELS": size if everything else 0, "C": size, "EXPONENT": 0, "PRECISION": "tf32x3",
    }  # fmt: skip


def row_constants(flags):
    """Entropy and log-sum-exp alone, or every statistic with a product and sets of keys."""
    wanted = Wanted(*[flags is ALL] * len(Wanted._fields))._replace(LSE=True, ENTROPY=True)
    return {
        "W": wanted,
        "S": 16 if flags is ALL else 1,
        "COUNT": 5,
        "C": 64 if flags is ALL else 1,
        "WIDTH": 64,
    }


def source(kernel, sweep, dtype, size, flags, shape=None, **more):
    fixed = {"column": lambda: column_constants(size, flags), "row": lambda: row_constants(flags)}.get(
        sweep, lambda: more
    )()
    if shape is not None:
        pass
    elif sweep == "column":
        shape = column_blocks(DTYPES[dtype], size, fixed["CHANNELS"], pooled=True, interpreted=False)
    elif sweep == "row" and flags is ALL:
        shape = apply_blocks(DTYPES[dtype], size, DTYPES[dtype], fixed["C"], interpreted=False)
    else:
        shape = row_blocks(DTYPES[dtype], size, interpreted=False)
    fixed |= {"SIZE": size, "D": shape.D, "M": shape.M, "N": shape.N, "F": flags}
    signature, constants, attributes = {}, {}, {}
    for at, name in enumerate(kernel.arg_names):
        if name in ("Q", "K", "V", "X", "Y"):
            signature[name] = View(f"*{dtype}", "i32", "i32", "i32")
            attributes |= {(at, part): [["tt.divisibility", 16]] for part in range(4)}
        elif name == "rules":
            signature[name] = RULES
        elif name == "out":
            signature[name] = Out(*("*i64" if field == "max_key" else "*fp32" for field in Out._fields))
        elif name in POINTERS or name == "OUT":
            signature[name] = f"*{POINTERS.get(name, dtype)}"
            attributes[(at,)] = [["tt.divisibility", 16]]
        elif name.isupper():
            signature[name] = "constexpr"
            constants[name] = fixed.get(name, flags is ALL)
        else:
            signature[name] = "i32"
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes), shape.options


def compiled(kernel, name, dtype, size, variant, arch, **more):
    src, options = source(kernel, name, dtype, size, variant, **more)
    built = triton.compile(src, target=GPUTarget("cuda", arch, 32), options=options)
    return {
        "kernel": name, "arch": arch, "dtype": dtype, "variant": "all" if variant is ALL else "causal",
        "cubin": len(built.asm["cubin"]), "shared": built.metadata.shared, "wgmma": built.asm["ptx"].count("wgmma.mma_async"),
    }  # fmt: skip


def hopper(name, kernel, module, blocks, dtype, size, **constants):
    """A fast path for sm_90, at the block shapes of its launch."""
    element = DTYPES[dtype]
    signature = {}
    for argument in kernel.arg_names:
        if argument in blocks:
            block = [1, 1, blocks[argument], size]
            signature[argument] = f"tensordesc<{dtype}{block},{fast._layout(tuple(block), element)!r}>"
        elif argument == "SHIFT":
            block = [1, module.ROWS]
            signature[argument] = f"tensordesc<fp32{block},{gl.NVMMASharedLayout(0, 32, 2)!r}>"
        elif argument in constants or argument == "num_warps":
            signature[argument] = "constexpr"
        else:
            signature[argument] = "*fp32" if argument.isupper() else "fp32" if argument == "scale" else "i32"
    constants |= {"D": size, "N": module._N, "STAGES": module._STAGES, "BODY": module._BODY}
    constants |= {"num_warps": module._OPTIONS["num_warps"]}
    signature |= dict.fromkeys((n for n in kernel.arg_names if n in constants), "constexpr")
    src = GluonASTSource(fn=kernel, signature=signature, constexprs=constants, attrs={})
    built = triton.compile(src, target=GPUTarget("cuda", 90, 32), options=module._OPTIONS)
    return {
        "kernel": name, "arch": 90, "dtype": dtype, "variant": "causal", "cubin": len(built.asm["cubin"]),
        "shared": built.metadata.shared, "wgmma": built.asm["ptx"].count("wgmma.mma_async"),
    }  # fmt: skip


def nearest(count, arch):
    """The nearest patches have no rules and no head: pointers, sizes and block shapes."""
    constants = {"M": 16, "N": 64 if count <= 64 else 32, "L": triton.next_power_of_2(count)}
    kinds = dict.fromkeys(("Q", "K", "QAT", "KAT", "OUT"), "*fp32") | {"OWN": "*i32", "falloff": "fp32"}
    signature = {n: "constexpr" if n in constants else kinds.get(n, "i32") for n in _nearest_kernel.arg_names}
    src = ASTSource(fn=_nearest_kernel, signature=signature, constexprs=constants)
    built = triton.compile(src, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
    return {
        "kernel": "nearest", "arch": arch, "dtype": "fp32", "variant": str(count), "cubin": len(built.asm["cubin"]),
        "shared": built.metadata.shared, "wgmma": 0,
    }  # fmt: skip


VARIANTS = (("bf16", 64, CAUSAL), ("bf16", 128, ALL), ("fp16", 128, CAUSAL), ("fp32", 64, ALL))
report = []
for arch in (80, 90):
    for case in VARIANTS:
        for name, kernel in (("row", _row_kernel), ("column", _column_kernel)):
            report.append(compiled(kernel, name, *case, arch))
        dtype, size = DTYPES[case[0]], case[1]
        report.append(compiled(_tile_kernel, "tile", *case, arch, shape=tile_shape(dtype, size)))
        shift = {
            "SIZE_V": size,
            "DV": size,
            "MARKS": 32,
            "shape": shift_shape(dtype, size, 4096, interpreting=False),
        }
        report.append(compiled(_shift_kernel, "shift", *case, arch, SHARED=False, TIMED=False, **shift))
        given = {"GIVEN": case[2] is CAUSAL, "L": 8, "shape": links_shape(dtype, size, 8, interpreted=False)}
        report.append(compiled(_links_kernel, "links", *case, arch, **given))
    report += [nearest(count, arch) for count in (64, 256)]
for dtype, size in (("bf16", 128), ("fp16", 64)):
    report.append(hopper("row-hopper", row._row_kernel, row, {"Q": row._M, "K": 2 * row._N}, dtype, size,
                         CAUSAL=True, WANTED=True, M=row._M))  # fmt: skip
    for tall, height in ((True, column._N), (False, 16)):
        report.append(hopper("column-hopper", column._column_kernel, column, {"Q": column.ROWS, "K": column._KEYS}, dtype, size,
                             CAUSAL=True, RECEIVED=True, TALL=tall, H=height, KEYS=column._KEYS))  # fmt: skip
print(json.dumps(report))
