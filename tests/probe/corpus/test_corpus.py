"""Many inputs: sums against one array of everything, killed and resumed runs, failures, folders that are not continued."""

import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from tiny_models import tiny

import probe
from probe import InputError, ModelError, RecordError
from probe.corpus import capture_corpus, open_corpus
from probe.corpus import run as corpora
from probe.corpus.moments import QUANTILES

STATS = ("entropy", "received", "max_key")


def prompts(count=6, seed=0):
    random = np.random.default_rng(seed)
    return [
        {
            "id": f"p{i}",
            "input_ids": random.integers(3, 60, 4 + 5 * i).tolist(),
            "kind": "ab"[i % 2],
            "score": i,
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def model():
    return tiny("llama", "sdpa")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """An uninterrupted run; on one thread as the tests, since another number of threads rounds otherwise."""
    folder = tmp_path_factory.mktemp("corpus") / "whole"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    tree = capture_corpus(model, prompts(), out=folder, stats=STATS)
    torch.set_num_threads(before)
    return tree


def same_sums(one, other):
    assert list(one["aggregate"].children) == list(other["aggregate"].children)
    for name in one["aggregate"].children:
        assert one[f"aggregate/{name}"].to_dataset().identical(other[f"aggregate/{name}"].to_dataset())


def test_sums_are_those_of_all_positions_at_once(model, whole):
    found = whole["aggregate/text"].to_dataset()
    trees = [
        probe.capture(model, {"input_ids": torch.tensor([p["input_ids"]])}, stats=STATS) for p in prompts()
    ]
    for name in STATS:
        of_inputs = [tree["text"][name].values[0].astype(np.float64) for tree in trees]
        everything = np.concatenate(of_inputs, -1)
        got = found.sel(statistic=name)
        assert (got["count"] == everything.shape[-1]).all()
        # two orders of summation: n additions each, every one rounded
        close = {
            "rtol": 4 * everything.shape[-1] * np.finfo(float).eps,
            "atol": 1e-15 * np.abs(everything).max() ** 2,
        }
        np.testing.assert_allclose(got["mean"], everything.mean(-1), **close)
        np.testing.assert_allclose(got["variance"], everything.var(-1), **close)
        assert np.array_equal(got["least"], everything.min(-1))
        assert np.array_equal(got["largest"], everything.max(-1))
        means = np.stack([x.mean(-1) for x in of_inputs])
        np.testing.assert_allclose(got["input_mean"], means, **close)
        np.testing.assert_allclose(got["quantiles"], np.quantile(means, QUANTILES, axis=0), **close)
    assert list(found["statistic"].values) == list(STATS)
    assert list(found["unit"].values) == ["nat", "attention", "position"]


def test_large_values_that_hardly_differ_keep_their_variance():
    """Sums of squares would lose it: Chan's update does not."""
    from probe.corpus.moments import Moments

    def of(x):
        one = np.ones((1, 1, 1))
        square = ((x - x.mean()) ** 2).sum()
        return Moments(
            ("lse",),
            (0,),
            ("m",),
            one.astype(int) * len(x),
            one * x.mean(),
            one * square,
            one * x.min(),
            one * x.max(),
        )

    x = 1e9 + np.random.default_rng(0).standard_normal(1000)
    parts = [of(part) for part in np.split(x, [1, 3, 500])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    assert merged.squares.item() / 1000 == pytest.approx(x.var(), rel=1e-6)
    empty = Moments(
        ("lse",),
        (0,),
        ("m",),
        np.zeros((1, 1, 1), int),
        *(np.full((1, 1, 1), v) for v in (np.nan, 0, np.nan, np.nan)),
    )
    for both in (merged.merged(empty), empty.merged(merged)):
        assert (both.mean, both.squares, both.least, both.count) == (
            merged.mean,
            merged.squares,
            x.min(),
            1000,
        )


def test_inputs_are_told_with_their_labels_checks_and_report(whole):
    inputs = whole["inputs"].to_dataset()
    assert list(inputs["id"].values) == [f"p{i}" for i in range(6)]
    assert list(inputs["tokens"].values) == [4 + 5 * i for i in range(6)]
    assert list(inputs["label_kind"].values) == list("ababab")
    assert list(inputs["label_score"].values) == list(range(6))
    assert inputs["passed"].all()
    assert (inputs["worst"] > 0).all()
    assert (inputs["worst"] < 1).all()
    report = whole.attrs["report"]
    assert (report["inputs"], report["done"], report["passed"], report["failures"]) == (6, 6, 6, [])
    assert report["tokens"] == int(inputs["tokens"].sum())
    assert report["seconds"] == pytest.approx(float(inputs["seconds"].sum()))
    assert report["worst"]["of_tolerance"] == inputs["worst"].max()
    assert whole.attrs["stats"] == list(STATS)


def test_a_run_that_stopped_goes_on_and_gives_the_same_bits(model, whole, tmp_path, monkeypatch):
    ran = []

    def stops(subject, inputs, **options):
        ran.append(inputs["input_ids"].shape[1])
        if len(ran) == 4:
            raise KeyboardInterrupt
        return probe.capture(subject, inputs, **options)

    monkeypatch.setattr(corpora, "capture", stops)
    out = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        capture_corpus(model, prompts(), out=out, stats=STATS)
    with pytest.raises(RecordError, match="3 of 6 inputs are done; resume it"):
        open_corpus(out)
    (out / "parts" / "000002.npz").write_bytes(
        (out / "parts" / "000002.npz").read_bytes()[:-40]
    )  # a lost tail
    steps = []
    tree = capture_corpus(
        model, prompts(), out=out, stats=STATS, resume=True, progress=lambda *step: steps.append(step)
    )
    assert ran == [4, 9, 14, 19, 9, 19, 24, 29]  # what was done and whole did not run again
    assert steps[0] == (2, 6, "resumed")
    assert steps[-1] == (6, 6, "p5")
    same_sums(tree, whole)
    again = capture_corpus(model, prompts(), out=out, stats=STATS, resume=True)
    assert len(ran) == 8
    same_sums(again, whole)
    assert not (out / "parts").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_loses_one_input_at_most(tmp_path):
    """SIGKILL, in a process of its own, twice; the third one ends the run."""
    script = textwrap.dedent("""
        import json, os, signal, sys
        import torch
        import probe
        from probe.corpus import run as corpus
        from transformers import LlamaForCausalLM
        torch.set_num_threads(1)
        folder, out, dies, inputs = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
        model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
        ran = []
        def dying(subject, given, **options):
            print(given["input_ids"].shape[1], flush=True)
            ran.append(given)
            tree = probe.capture(subject, given, **options)
            if len(ran) == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return tree
        corpus.capture = dying
        corpus.capture_corpus(model, inputs, out=out, resume=True, keep_records=True)
    """)
    tiny("llama", "sdpa").save_pretrained(tmp_path / "model")
    inputs = [{k: v for k, v in p.items() if k != "score"} for p in prompts(5)]
    ran = []
    for dies in (2, 3, 0):
        line = [sys.executable, "-c", script, tmp_path / "model", tmp_path / "out", dies, json.dumps(inputs)]
        ended = subprocess.run(
            [str(x) for x in line], capture_output=True, text=True, check=False, timeout=120
        )
        assert ended.returncode == (-signal.SIGKILL if dies else 0), ended.stderr[-2000:]
        ran.append([int(word) for word in ended.stdout.split()])
    assert ran == [[4, 9], [9, 14, 19], [19, 24]]
    from transformers import LlamaForCausalLM

    again = LlamaForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="sdpa").eval()
    same_sums(open_corpus(tmp_path / "out"), capture_corpus(again, inputs, out=tmp_path / "other"))
    records = sorted((tmp_path / "out" / "records").iterdir())
    assert [path.name for path in records] == [f"{i:06d}.zarr" for i in range(1, 6)]
    assert probe.open_record(records[3])["text"].sizes["query"] == 19


def test_batches_hold_inputs_of_similar_length_and_padding_does_not_count(model, whole, tmp_path):
    shuffled = [prompts()[i] for i in (3, 0, 5, 1, 4, 2)]
    sizes = []
    real = probe.capture

    def watched(subject, inputs, **options):
        sizes.append(inputs["attention_mask"].sum(1).tolist())
        return real(subject, inputs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "capture", watched)
        tree = capture_corpus(model, shuffled, out=tmp_path / "b", stats=STATS, batch=2)
    assert sizes == [[4, 9], [14, 19], [24, 29]]
    assert list(tree["inputs"]["id"].values) == [p["id"] for p in shuffled]
    got, expected = tree["aggregate/text"].to_dataset(), whole["aggregate/text"].to_dataset()
    assert got["count"].identical(expected["count"])
    for name in ("entropy", "received"):
        one, other = got.sel(statistic=name), expected.sel(statistic=name)
        np.testing.assert_allclose(one["mean"], other["mean"], rtol=1e-5)
        np.testing.assert_allclose(one["variance"], other["variance"], rtol=1e-4)
        order = [3, 0, 5, 1, 4, 2]
        np.testing.assert_allclose(one["input_mean"], other["input_mean"].values[order], rtol=1e-5)


def bad(at=2):
    inputs = prompts()
    inputs[at]["input_ids"] = [5, 10_000, 7]
    return inputs


def test_an_input_that_fails_stops_the_run_and_is_named(model, tmp_path):
    with pytest.raises(InputError, match=r"^input 3 \(p2\): input_ids: got ids from 5 to 10000"):
        capture_corpus(model, bad(), out=tmp_path / "c")
    assert len(list((tmp_path / "c" / "parts").iterdir())) == 2


@pytest.mark.parametrize("batch", [1, 3])
def test_or_is_skipped_and_listed(model, tmp_path, batch):
    tree = capture_corpus(model, bad(), out=tmp_path / "c", on_error="skip", batch=batch)
    report = tree.attrs["report"]
    assert (report["done"], report["passed"]) == (5, 5)
    (failure,) = report["failures"]
    assert (failure["id"], failure["where"]) == ("p2", "input 3")
    assert failure["error"] == tree["inputs"]["error"].values[2]
    assert "got ids from 5 to 10000" in failure["error"]
    assert np.isnan(tree["aggregate/text"]["input_mean"].values[2]).all()
    assert not np.isnan(tree["aggregate/text"]["quantiles"]).any()
    assert int(tree["aggregate/text"]["count"][0, 0, 0]) == sum(4 + 5 * i for i in (0, 1, 3, 4, 5))


def test_a_failure_inside_the_model_is_said_of_its_input(model, tmp_path):
    def fail(module, args, output):
        if output[0].shape[-2] == 14:
            raise RuntimeError("planted in the model")

    handle = model.model.layers[1].self_attn.register_forward_hook(fail)
    try:
        with pytest.raises(ModelError, match=r"^input 3 \(p2\): RuntimeError: planted in the model$"):
            capture_corpus(model, prompts(), out=tmp_path / "c")
        tree = capture_corpus(model, prompts(), out=tmp_path / "c", resume=True, on_error="skip")
    finally:
        handle.remove()
    assert [one["id"] for one in tree.attrs["report"]["failures"]] == ["p2"]


def test_when_nothing_can_be_captured_there_is_no_result(model, tmp_path):
    with pytest.raises(InputError, match=r"no input could be captured; input 1: .*tokenizer"):
        capture_corpus(model, ["a text", "another"], out=tmp_path / "c", on_error="skip")
    with pytest.raises(RecordError, match="0 of 2 inputs are done"):
        open_corpus(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": prompts(5)}, "other inputs or ids, inputs;"),
        ({"inputs": prompts(6, seed=1)}, "other inputs or ids;"),
        ({"stats": ("entropy",)}, "other stats;"),
        ({"layers": [0]}, "other layers;"),
        ({"model": tiny("llama", "sdpa", seed=1)}, "other model, device or versions;"),
    ],
)
def test_another_run_is_not_continued(model, tmp_path, change, message):
    line = {"model": model, "inputs": bad(5), "stats": STATS}
    with pytest.raises(InputError, match="input 6"):
        capture_corpus(line.pop("model"), line.pop("inputs"), out=tmp_path / "c", **line)
    asked = {"model": model, "inputs": bad(5), "stats": STATS, **change}
    with pytest.raises(InputError, match=message):
        capture_corpus(asked.pop("model"), asked.pop("inputs"), out=tmp_path / "c", resume=True, **asked)


def test_what_stands_there_is_left_alone(model, whole, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(InputError, match="exists and is no corpus"):
            capture_corpus(model, prompts(), out=tmp_path / "mine", resume=resume)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    out = tmp_path / "c"
    out.mkdir()
    (out / "corpus.json.partial").write_text("{")  # of a run that was killed at once
    capture_corpus(model, prompts(2), out=out)
    with pytest.raises(InputError, match="holds a corpus already"):
        capture_corpus(model, prompts(2), out=out)
    (out / "corpus.json").write_text((out / "corpus.json").read_text().replace('"complete"', '"running"'))
    facts = json.loads((out / "corpus.json").read_text())
    other = subprocess.Popen(["sleep", "60"])
    try:
        import socket

        facts["writer"] = {"pid": other.pid, "host": socket.gethostname()}
        (out / "corpus.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match=f"process {other.pid} is at work"):
            capture_corpus(model, prompts(2), out=out, resume=True)
    finally:
        other.kill()
        other.wait()


def test_a_damaged_result_is_refused(model, tmp_path):
    capture_corpus(model, prompts(2), out=tmp_path / "c")
    stored = tmp_path / "c" / "aggregate.zarr" / "aggregate" / "text" / "mean" / "c"
    chunk = next(path for path in stored.rglob("*") if path.is_file())
    chunk.unlink()
    with pytest.raises(RecordError, match=r"damaged: aggregate.zarr/aggregate/text/mean/c.* is missing"):
        open_corpus(tmp_path / "c")
    with pytest.raises(RecordError, match="not a corpus"):
        open_corpus(tmp_path)
