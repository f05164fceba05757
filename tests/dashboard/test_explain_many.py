"""`probe explain` beyond one text: many texts, comparison, Markdown, languages, a language model, and `probe evaluate`."""

import json

import pytest
from chat_server import serving

SENTENCE = "The plot is thin, but the acting is a delight."
FAST = ("--no-faithfulness", "--method", "gradient_x_input")
KEY = "sk-secret-0123456789"

pytestmark = pytest.mark.usefixtures("sentiment_folder")


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [
        {"id": "a", "text": SENTENCE},
        {"text": "A dull film.", "target": "positive"},
        {"id": "c", "text": "Good."},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def documents(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_jsonl_file_gives_a_document_a_line_and_a_summary(probe, lines, tmp_path):
    ended = probe("explain", lines, "--out", tmp_path / "out", "--json", *FAST)
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert (summary["inputs"], summary["done"], summary["failures"]) == (3, 3, [])
    found = documents(tmp_path / "out")
    assert [d["id"] for d in found] == ["a", "2", "c"]
    assert found[1]["target"]["text"] == "positive"
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == {
        key: value for key, value in summary.items() if key != "folder"
    }


def test_a_killed_run_goes_on_where_it_stopped(probe, fails, lines, tmp_path):
    out = tmp_path / "out"
    probe("explain", lines, "--out", out, *FAST)
    whole = (out / "results.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    (out / "results.jsonl").write_bytes(whole[: first + 40])
    assert "holds a run already" in fails("explain", lines, "--out", out, *FAST)
    assert "other settings" in fails("explain", lines, "--out", out, "--resume", "--no-faithfulness")
    assert probe("explain", lines, "--out", out, "--resume", *FAST).code == 0
    again = documents(out)
    assert [d["id"] for d in again] == ["a", "2", "c"]
    assert (out / "results.jsonl").read_bytes()[:first] == whole[:first]


def test_a_folder_is_read_and_what_fails_is_skipped_and_named(probe, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("A dull film.", encoding="utf-8")
    (folder / "a.txt").write_text("word " * 600, encoding="utf-8")
    ended = probe(
        "explain", folder, "--out", tmp_path / "out", "--on-error", "skip", "--max-tokens", "50", *FAST
    )
    assert ended.code == 1
    assert "1 of 2 texts explained" in ended.out
    assert "a.txt" in ended.out
    assert "1 of 2 texts were skipped" in ended.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r'line 1: expected an object with a "text"'),
        ("{", "line 1 is no JSON"),
        ('{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}', "the id '1' stands already"),
    ],
)
def test_bad_lines_are_named_before_anything_runs(fails, tmp_path, text, message):
    path = tmp_path / "in.jsonl"
    path.write_text(text, encoding="utf-8")
    assert message in fails("explain", path, "--out", tmp_path / "out", "--model", "none")


def test_methods_are_compared(probe, fails, tmp_path):
    page = tmp_path / "r.html"
    line = ("--compare", "gradient_x_input,occlusion", "--no-faithfulness")
    ended = probe("explain", SENTENCE, "--json", "--html", page, *line)
    found = json.loads(ended.out)
    assert [d["method"] for d in found["compared"]] == ["gradient_x_input", "occlusion"]
    (pair,) = found["agreement"]
    assert pair["sentence"].startswith("gradient x input and occlusion share ")
    assert pair["sentence"] in page.read_text(encoding="utf-8")
    assert "two or more different methods" in fails("explain", SENTENCE, "--compare", "occlusion")


def test_markdown_and_html_escape_what_the_text_holds(probe, tmp_path):
    text = "A *dull* <script>alert(1)</script> `film` [x](y) | & delight"
    paths = ("--markdown", tmp_path / "r.md", "--html", tmp_path / "r.html")
    assert probe("explain", text, *paths, *FAST).code == 0
    page, notes = ((tmp_path / name).read_text(encoding="utf-8") for name in ("r.html", "r.md"))
    assert "<script>alert(1)" not in page
    body = notes.partition("Made by")[0]
    assert "<script>" not in body.replace("\\<", "")
    assert "[x]" not in body.replace("\\[", "")
    assert "probe explain 'A *dull*" in notes
    assert "--no-faithfulness" in page


def test_another_language(probe):
    assert "Am stärksten für „positive“ spricht" in probe("explain", SENTENCE, "--language", "de", *FAST).out


def test_a_language_model_writes_the_words_and_no_secret_is_left_anywhere(probe, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    page = tmp_path / "r.html"
    with serving(lambda _: 'The word "delight" is most important. So is "brilliant".') as at:
        url = at.url.replace("//", "//me:pass-word@")
        line = ("--verbalizer", "llm", "--base-url", url, "--no-cache", "--html", page)
        ended = probe("explain", SENTENCE, *line, "--no-faithfulness")
    assert ended.code == 0, ended.err
    assert '"brilliant" ⟦unsupported: not in the text⟧' in ended.out
    assert "Checked against the map: 2 of 3 claims hold." in ended.out
    everything = ended.out + ended.err + page.read_text(encoding="utf-8")
    assert KEY not in everything
    assert "pass-word" not in everything


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("--verbalizer", "llm"), "needs the server's address"),
        (("--verbalizer", "gpt"), "expected template or llm"),
        (("--base-url", "http://localhost:1/v1"), "belongs to --verbalizer llm"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_any_work(fails, line, message):
    assert message in fails("explain", SENTENCE, "--model", "none", *line)


def test_evaluate_prints_a_table_and_writes_a_report(probe, tmp_path):
    path, page = tmp_path / "texts.txt", tmp_path / "e.html"
    path.write_text(f"{SENTENCE}\nA dull film.\n", encoding="utf-8")
    line = ("--methods", "gradient_x_input", "--sanity", "0", "--html", page)
    ended = probe("evaluate", path, *line)
    assert ended.code == 0, ended.err
    assert "By gap, gradient x input leads" in ended.out
    assert "leave-one-out" in ended.out
    assert "Faithfulness of saliency methods" in page.read_text(encoding="utf-8")
