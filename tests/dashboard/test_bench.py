"""`probe bench`: no time for a wrong result, whole documents, honest ends."""

import json
import math
import re

import pytest
import torch

from probe.dashboard import bench
from probe.dashboard.bench import case as cases
from probe.dashboard.bench import gate, rows, run, summary
from probe.dashboard.bench.__main__ import main
from probe.dashboard.bench.facts import begin
from probe.dashboard.bench.options import PATTERNS, Request, resolve

SMALL = ("--lengths", "128,256", "--heads", "2", "--key-heads", "1", "--head-size", "16", "--no-capture")
SMALL += ("--device", "cpu", "--repeats", "1")


def small(**more):
    return resolve(
        Request(device="cpu", heads=2, key_heads=1, head_size=16, lengths="128,256", repeats=1, **more)
    )


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "b.json"
    assert main([*SMALL, "--json", str(path)]) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def numbers(value):
    if isinstance(value, dict):
        return [x for item in value.values() for x in numbers(item)]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.slow
def test_the_document_is_whole(document):
    assert set(document) <= set(re.findall(r"`(\w+)`", bench.__doc__))
    assert (document["schema"], document["partial"], document["why_partial"]) == (1, False, None)
    assert document["shape"] == {"batch": 1, "heads": 2, "key_heads": 1, "head_size": 16, "dtype": "fp32"}
    for fact in ("python", "torch", "triton", "attention-probe"):
        assert document["versions"][fact]
    assert all(math.isfinite(x) for x in numbers(document))
    assert all(
        m["seconds"] > 0 and m["extra_bytes"] > 0 and m["floor_seconds"] > 0 for m in document["measurements"]
    )


def test_every_statistic_is_gated_and_timed_at_every_place(document):
    names = [row.name for row in rows.all_rows()]
    assert document["skipped"] == []
    timed = {(m["pattern"], m["n"], m["name"]) for m in document["measurements"] if m["kind"] == "statistic"}
    assert timed == {(p, n, name) for p in PATTERNS for n in (128, 256) for name in names}
    assert {(g["pattern"], g["name"]) for g in document["gate"]} == {
        (p, name) for p in PATTERNS for name in names
    }
    assert all(g["error"] <= g["allowed"] for g in document["gate"])
    for m in document["measurements"]:
        assert set(m["ratio"]) == ({"sdpa", "eager"} if m["kind"] == "statistic" else set())


def test_visible_pairs_are_counted(document):
    def of(pattern, name, n=256):
        return summary.find(document, pattern, n, name)

    assert of("full", "rows")["pairs"] == 256 * 256
    assert of("causal", "rows")["pairs"] == 256 * 257 // 2
    assert of("window", "rows")["pairs"] == 256 * 64 - 64 * 63 // 2
    assert of("causal", "rows")["flops"] == 2 * 2 * 16 * (256 * 257 // 2)
    assert of("causal", "sdpa")["flops"] == 2 * of("causal", "rows")["flops"]
    assert of("causal", "tile")["pairs"] == 128 * 128


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("n", [128, 500, 512])
def test_the_pattern_s_intervals_and_its_rules_are_one_mask(pattern, n):
    from attention_oracle import mask

    case = cases.make(small(), pattern, n)
    seen = mask(case.spec, 1, n, n)[0]
    if case.spec.query_valid is not None:
        seen = seen & case.spec.query_valid[0, :, None]
    assert torch.equal(case.mask(), seen)
    assert case.pairs == int(seen.sum())


OFF = ["rows", "rows-output", "columns", "map", "top-links", "sink-shift", "tile"]


@pytest.mark.parametrize("name", OFF)
def test_a_wrong_result_ends_the_run_without_a_number(fails, monkeypatch, name):
    wrong = {"top-links": "link_probs", "sink-shift": "shifted", "tile": "tile", "map": "pooled"}
    known = {row.name: row for row in rows.all_rows()}
    row = known[name]

    def planted(case):
        honest = row.make(case)

        def call():
            out = honest()
            key = wrong.get(name, list(out)[-1])
            return out | {key: out[key] + 1e-3}

        return call

    changed = type(row)(row.name, row.label, row.products, row.sweeps, planted, row.side)
    monkeypatch.setattr(run, "all_rows", lambda: [changed])
    line = fails("bench", *SMALL, "--patterns", "causal")
    assert f"of “{row.label}” is wrong: error" in line
    assert "no time is printed" in line


def test_a_kernel_off_by_a_thousandth_is_refused(fails, monkeypatch, tmp_path):
    honest = rows.column_mass
    monkeypatch.setattr(rows, "column_mass", lambda *a: honest(*a) * 1.001)
    assert "received of “column pass, lse given” is wrong" in fails(
        "bench", *SMALL, "--json", tmp_path / "b.json"
    )
    assert not (tmp_path / "b.json").exists()


def test_a_wrong_key_is_refused():
    case = cases.make(small(), "causal", 256)
    truth, plain = (gate.Truth(case, dtype) for dtype in (torch.float64, torch.float32))
    best = truth.map.argmax(-1)[None]
    assert gate.judge("max_key", best, truth, plain).passed
    assert not gate.judge("max_key", (best - 1).clamp(min=0), truth, plain).passed


def test_a_peer_that_computes_something_else_is_left_out(monkeypatch):
    from probe.dashboard.bench.peers import Peer

    def half(case):
        return lambda: torch.zeros_like(case.q)

    monkeypatch.setattr(run, "all_peers", lambda device, flex: [Peer("half", "half", "output", 2, half)])
    plan = small(patterns="causal")
    document = begin(plan)
    run.Bench(plan, document, lambda *_: None).run()
    assert "its result is another one" in document["skipped"][0]["why"]
    assert "half" not in {m["name"] for m in document["measurements"]}


def test_the_exponent_of_exact_powers():
    lengths = [1024, 4096, 8192]
    assert summary.exponent(lengths, [3e-9 * n**2 for n in lengths]) == pytest.approx(2, abs=1e-12)
    assert summary.exponent(lengths, [5e-6 * n**0.5 for n in lengths]) == pytest.approx(0.5, abs=1e-12)


def measurement(pattern, n, name, seconds, kind="statistic", extra=1 << 20):
    return {"pattern": pattern, "n": n, "name": name, "kind": kind, "seconds": seconds, "extra_bytes": extra}


def made_up(name="NVIDIA H100 80GB HBM3"):
    measured = [
        measurement("causal", 131072, "map", 0.30, extra=1 << 28),
        measurement("causal", 131072, "map-lse", 0.16),
        measurement("causal", 131072, "cudnn", 0.25, "peer"),
        measurement("causal", 131072, "rows", 0.14),
        measurement("causal", 131072, "rows-output", 0.35),
        measurement("causal", 131072, "tile", 1e-3),
        measurement("causal", 32768, "mass", 0.018),
        measurement("causal", 32768, "flash-colsum", 0.126, "peer"),
    ]
    shape = {"batch": 1, "heads": 32, "key_heads": 8, "head_size": 128, "dtype": "bf16"}
    device = {"type": "cuda", "name": name}
    return summary.complete({"measurements": measured, "shape": shape, "device": device, "partial": False})


def test_goals_are_met_or_not_by_their_figures():
    told = [(g["value"], g["met"]) for g in made_up()["goals"]]
    assert told[0] == (pytest.approx(1.2), False)
    assert told[1] == told[2] == (None, None)
    assert told[3] == (pytest.approx(0.64), True)
    assert told[4] == (pytest.approx(7.0), True)
    assert told[5] == (None, None)
    assert told[6] == (pytest.approx(0.35 / 0.39), True)
    assert told[7] == (1 << 28, True)
    assert told[8] == (1e-3, True)


def test_goals_of_another_device_are_not_judged():
    goals = made_up("NVIDIA A100")["goals"]
    assert {g["met"] for g in goals} == {None}
    assert "set for an H100, this is NVIDIA A100" in goals[0]["why"]


@pytest.mark.slow
def test_an_interrupted_run_shows_what_it_has(probe, monkeypatch, tmp_path):
    from probe.dashboard.bench import run as module

    honest, calls = module.measure, []

    def measure(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(module, "measure", measure)
    ended = probe("bench", *SMALL, "--json", tmp_path / "b.json", "--html", tmp_path / "b.html")
    assert ended.code == 130
    assert "partial: interrupted" in ended.out
    assert "interrupted" in ended.err
    document = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert (document["partial"], document["why_partial"]) == (True, "interrupted")
    assert [m["name"] for m in document["measurements"]] == ["rows", "rows-all"]
    assert "partial: interrupted" in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_json_on_standard_output_is_nothing_but_json(probe):
    ended = probe("bench", *SMALL, "--patterns", "window", "--json", "-")
    assert ended.code == 0
    assert json.loads(ended.out)["patterns"] == ["window"]


def test_the_table_names_every_line_and_what_was_left_out(probe, monkeypatch):
    monkeypatch.setattr("probe.dashboard.bench.peers._EAGER_BYTES_ON_CPU", 0)
    said = probe("bench", *SMALL, "--patterns", "causal").out
    for row in rows.all_rows():
        assert row.label in said
    assert "eager (causal): the N×N map takes" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--lengths", "4q"], "--lengths: got '4q', expected tokens such as 4096 or 4k"),
        (["--lengths", "16"], "expected at least 128 tokens"),
        (["--patterns", "diagonal"], "expected some of causal, full, window, padded, varlen"),
        (["--heads", "9", "--key-heads", "2"], "--key-heads 2 does not divide --heads 9"),
        (["--dtype", "fp8"], "expected one of bf16, fp16, fp32"),
        (["--device", "tpu"], "expected auto, cpu, cuda or cuda:1"),
        (["--json", "no/such/b.json"], "the folder no/such does not exist"),
    ],
)
def test_bad_options_are_one_line(fails, line, message):
    assert message in fails("bench", *line)


def test_lengths_are_read_in_thousands_of_24():
    from probe.dashboard.bench.options import lengths

    assert lengths("4k, 512,4096,1K") == (512, 1024, 4096)


def test_both_entrances_have_the_same_options(probe, capsys):
    shown = set(re.findall(r"--[a-z-]+", probe("bench", "--help").out))
    with pytest.raises(SystemExit):
        main(["--help"])
    other = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert shown - {"--help"} <= other | {"--no-quick"}
    assert other - {"--debug", "--no-quick", "--help"} <= shown


@pytest.mark.slow
def test_the_measuring_part_needs_no_figure_and_no_records():
    import subprocess
    import sys

    from house import ROOT

    code = """
import sys
for name in ("plotly", "zarr", "xarray", "typer", "dash", "captum"):
    sys.modules[name] = None
from probe.dashboard.bench.__main__ import main
raise SystemExit(main(["--lengths", "128", "--patterns", "causal", "--heads", "1", "--key-heads", "1", "--head-size", "16",
                       "--device", "cpu", "--no-capture", "--repeats", "1", "--json", "-"]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert json.loads(ended.stdout)["partial"] is False


def test_the_page_draws_a_real_run(document, tmp_path):
    from probe.viz._bench import draw_bench, write_bench

    figure = draw_bench(document)
    curves = {(t.xaxis, t.meta): list(t.y) for t in figure.data if not t.meta.startswith("goal")}
    assert len(curves) == len(PATTERNS) * (len(rows.all_rows()) + 1)
    panels = dict(zip(PATTERNS, ("x", "x2", "x3", "x4", "x5"), strict=True))
    for m in document["measurements"]:
        if m["kind"] == "statistic":
            assert curves[panels[m["pattern"]], m["name"]][m["n"] == 256] == pytest.approx(m["ratio"]["sdpa"])
    text = write_bench(document, tmp_path / "b.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in text
    assert "default-src 'none'" in text
    for row in rows.all_rows():
        assert json.dumps(row.label)[1:-1] in text or row.label in text


def test_block_masks_are_those_of_the_pattern():
    from torch.nn.attention.flex_attention import create_block_mask

    from probe.dashboard.bench import flex

    for pattern in PATTERNS[2:]:
        case = cases.make(small(), pattern, 1000)
        made = flex.block_mask(case)
        expected = create_block_mask(flex._rule(case), None, None, 1000, 1000, device="cpu")
        for part in ("kv_num_blocks", "full_kv_num_blocks"):
            assert torch.equal(getattr(made, part), getattr(expected, part))
        assert torch.equal(made.to_dense(), expected.to_dense())


def test_a_kernel_that_breaks_is_named_and_the_others_are_timed(probe, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr(rows, "top_links", broken)
    ended = probe("bench", *SMALL, "--patterns", "causal")
    assert ended.code == 1
    assert "error: bench: top-links failed somewhere" in ended.err
    assert "top-links (causal): failed: RuntimeError: out of resource: shared memory" in ended.out
    assert "row pass: lse, entropy" in ended.out


def test_a_refused_rule_is_no_failure(probe, monkeypatch):
    def refusing(*_, **__):
        raise ValueError("ScoreSpec.causal: refused by name")

    monkeypatch.setattr(rows, "top_links", refusing)
    ended = probe("bench", *SMALL, "--patterns", "causal")
    assert ended.code == 0
    assert "top-links (causal): refused: ScoreSpec.causal: refused by name" in ended.out


def test_the_exponential_s_kernel_compiles_for_ampere_and_hopper():
    import os
    import subprocess
    import sys

    from house import ROOT

    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from probe.dashboard.bench.exp_rate import _exp_kernel
for capability in (80, 90):
    source = ASTSource(_exp_kernel, {"OUT": "*fp32", "TURNS": "constexpr", "WIDTH": "constexpr"}, {"TURNS": 8, "WIDTH": 1024})
    print(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"].count("ex2.approx"))
"""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env)
    assert ended.stdout.split() == ["8", "8"], ended.stderr[-2000:]
