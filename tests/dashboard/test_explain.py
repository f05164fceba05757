"""`probe explain` on the embedded model: what a person sees, what a program gets."""

import json
import re

import pytest

SENTENCE = "The plot is thin, but the acting is a delight."

pytestmark = pytest.mark.usefixtures("sentiment_folder")


@pytest.fixture(scope="module")
def expected():
    import probe
    from probe import explainers as ex

    result = ex.saliency(probe.load("sentiment", device="cpu"), SENTENCE)
    return result, ex.verbalize(result)


def test_json_holds_scores_tokens_sentences_faithfulness_and_provenance(probe, expected):
    result, words = expected
    document = json.loads(probe("explain", SENTENCE, "--json").out)
    assert document["input"] == SENTENCE
    assert "".join(t["text"] for t in document["tokens"] if t["role"] == "text") == SENTENCE
    scores = [t["score"] for t in document["tokens"]]
    assert scores == pytest.approx(result["score"].values.tolist(), rel=1e-4, abs=1e-5)
    assert sum(t["share"] for t in document["tokens"] if t["role"] == "text") == pytest.approx(1)
    assert [s["text"] for s in document["sentences"]] == words.splitlines()
    assert document["prediction"]["probability"] == pytest.approx(
        result.attrs["prediction_probability"], rel=1e-4
    )
    assert len(document["faithfulness"]["deletion"]) == result.sizes["step"]
    provenance = document["provenance"]
    assert provenance["model_revision"].startswith("sha256:")
    assert provenance["versions"]["torch"]
    assert provenance["parameters"]["seed"] == 0


def test_options_reach_the_method(probe):
    line = ("--method", "occlusion", "--target", "positive", "--seed", "3", "--no-faithfulness")
    document = json.loads(probe("explain", SENTENCE, "--json", *line).out)
    assert document["method"] == "occlusion"
    assert document["target"]["text"] == "positive"
    assert document["provenance"]["parameters"]["seed"] == 3
    assert document["faithfulness"] is None


def test_a_file_is_read_and_a_report_written(probe, tmp_path):
    path = tmp_path / "review.txt"
    path.write_text(SENTENCE, encoding="utf-8")
    ended = probe("explain", path, "--html", tmp_path / "r.html", "--no-faithfulness")
    assert ended.code == 0
    assert ended.err == f"report written: {tmp_path / 'r.html'}\n"
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "sentiment says" in page
    assert "sha256:" in page


def test_an_unusable_place_for_the_report_is_named_before_any_work(fails, tmp_path):
    line = ("explain", SENTENCE, "--model", "one that would be refused later", "--html")
    assert "is a folder" in fails(*line, tmp_path)
    assert "does not exist" in fails(*line, tmp_path / "no" / "r.html")


@pytest.mark.slow
def test_a_process_of_its_own_pipes_plain_lines(separate, expected):
    _, words = expected
    ended = separate("explain", "-", stdin=SENTENCE.encode())
    out = ended.stdout.decode()
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in out
    for sentence in words.splitlines():
        assert sentence in out.splitlines()
    assert out.startswith("sentiment says “")
    assert "faithfulness: deletion area" in out
    assert ended.stderr == b""


@pytest.mark.slow
def test_a_terminal_gets_coloured_tokens_and_a_panel(on_terminal):
    ended = on_terminal("explain", "delightful", "--no-faithfulness")
    assert re.search(r"\x1b\[[0-9;]*48;[25];[0-9;]*mdelightful", ended.stdout), ended.stdout
    assert "╭─" in ended.stdout


@pytest.mark.slow
def test_chatter_of_libraries_stays_out_of_json(separate):
    ended = separate("explain", "A delight.", "--json", "--no-faithfulness", TRANSFORMERS_VERBOSITY="info")
    assert json.loads(ended.stdout)["input"] == "A delight."


def test_the_reader_may_go_away(in_shell):
    ended = in_shell("{probe} run --list | head -1")
    assert ended.stderr == ""
    assert ended.stdout.startswith("act  (")
