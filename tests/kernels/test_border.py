"""What the kernels refuse, in words that name the argument, what came and what was expected."""

import pytest
import torch

from probe.kernels.column_pass import column_mass
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.kernels.statistics import map_statistics

Q, K = torch.randn(2, 4, 10, 16), torch.randn(2, 2, 10, 16)
SPEC = ScoreSpec(scale=0.25, causal=True)


def refused(match, *args, **kwargs):
    with pytest.raises(ValueError, match=match):
        row_stats(*args, **kwargs)


def test_shapes():
    refused(r"q: got shape \(4, 10, 16\), expected 4 dimensions", Q[0], K, SPEC)
    refused(
        r"k: got shape \(2, 3, 10, 16\), expected \[2, a divisor of 4, any, 16\]",
        Q,
        torch.randn(2, 3, 10, 16),
        SPEC,
    )
    refused(r"k: got shape \(2, 2, 10, 8\)", Q, K[..., :8], SPEC)
    refused(r"got 0 queries and 10 keys, expected at least one of each", Q[:, :, :0], K, SPEC)
    refused(
        r"q: got head size 300, expected 1 to 256", torch.randn(1, 1, 2, 300), torch.randn(1, 1, 2, 300), SPEC
    )


def test_dtypes_and_devices():
    refused(r"q: got dtype torch.int64, expected one of", Q.long(), K.long(), SPEC)
    refused(r"k: got torch.float16 on cpu, expected torch.float32 on cpu as q", Q, K.half(), SPEC)
    refused(
        r"'triton' with float64 input, expected 'reference'",
        Q.double(),
        K.double(),
        SPEC,
        implementation="triton",
    )


def test_rules_that_do_not_fit():
    refused(
        r"ScoreSpec.offset: got 5 with 10 queries and 10 keys",
        Q,
        K,
        ScoreSpec(scale=1.0, causal=True, offset=5),
    )
    refused(
        r"ScoreSpec.key_valid: got shape \(2, 9\), expected \[2, 10\]",
        Q,
        K,
        ScoreSpec(1.0, key_valid=torch.ones(2, 9).bool()),
    )
    refused(
        r"ScoreSpec.key_valid: got dtype torch.float32", Q, K, ScoreSpec(1.0, key_valid=torch.ones(2, 10))
    )
    refused(r"ScoreSpec.slopes: got shape \(3,\), expected \[4\]", Q, K, ScoreSpec(1.0, slopes=torch.ones(3)))
    refused(
        r"ScoreSpec.groups: got dtype torch.float32, expected integers",
        Q,
        K,
        ScoreSpec(1.0, groups=torch.ones(2, 10)),
    )
    for arguments, message in (
        ({"window": 0}, "ScoreSpec.window: got 0"),
        ({"chunk": -3}, "ScoreSpec.chunk: got -3"),
        ({"softcap": 0.0}, "ScoreSpec.softcap: got 0.0"),
        ({"offset": -1}, "ScoreSpec.offset: got -1"),
        ({"distance_bias": torch.zeros(4, 6)}, "got 6 distances, expected the odd number"),
    ):
        with pytest.raises(ValueError, match=message):
            ScoreSpec(scale=1.0, **arguments)


def test_names():
    refused(
        r"stats: got \['entropie'\], expected at least one of lse, entropy", Q, K, SPEC, stats=["entropie"]
    )
    refused(r"stats: got \[\]", Q, K, SPEC, stats=[])
    refused(
        r"implementation: got 'cuda', expected one of auto, reference, triton",
        Q,
        K,
        SPEC,
        implementation="cuda",
    )
    with pytest.raises(ValueError, match=r"names: got \['recieved'\]"):
        map_statistics(Q, K, SPEC, ["recieved"])


def test_column_arguments():
    lse = row_stats(Q, K, SPEC)["lse"]
    with pytest.raises(ValueError, match=r"lse: got shape \(2, 4, 9\), expected \(2, 4, 10\)"):
        column_mass(Q, K, SPEC, lse[..., :9])
    with pytest.raises(ValueError, match=r"weights: got shape \(4, 10\)"):
        column_mass(Q, K, SPEC, lse, weights=lse[0])


def test_triton_is_never_replaced_silently():
    """Without a device and without the interpreter an explicit request is refused; it must be asked in a fresh process."""
    import os
    import subprocess
    import sys

    code = (
        "import torch; from probe.kernels.row_pass import row_stats; from probe.kernels.score import ScoreSpec\n"
        "q = torch.randn(1, 1, 4, 16)\n"
        "try: row_stats(q, q, ScoreSpec(1.0), implementation='triton')\n"
        "except ValueError as error: print(error)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "got 'triton' for a tensor on cpu, expected a CUDA tensor" in run.stdout, run.stderr[-500:]
