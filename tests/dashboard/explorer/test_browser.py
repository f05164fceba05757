"""A real browser drives the pages on a real record."""

import io
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas
import pytest
from browsing import until

pytestmark = pytest.mark.slow
GRID = "#overview-grid-figure .js-plotly-plot"


def asked(page):
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def drawn(page, panel):
    until(
        page,
        "id => { const g = document.querySelector(`#${id}-figure .js-plotly-plot`); return g && g.data && g.data.length }",
        panel,
    )


def click_head(page, layer, head):
    """Click the cell of a head in the grid, by its place on the screen."""
    drawn(page, "overview-grid")
    page.wait_for_selector(f"{GRID} .hm image")
    at = page.evaluate(
        """([graph, layer, head]) => {
            const g = document.querySelector(graph), l = g._fullLayout, r = g.getBoundingClientRect();
            return [r.left + l.xaxis._offset + l.xaxis.d2p(head), r.top + l.yaxis._offset + l.yaxis.d2p(layer)];
        }""",
        [GRID, layer, head],
    )
    page.mouse.move(*at)
    page.wait_for_selector(f"{GRID} .hoverlayer text")
    page.mouse.click(*at)


def test_records_are_listed_searched_and_opened(explorer, visit):
    page = visit(explorer.url)
    rows = page.locator("#record-rows tr")
    assert rows.count() == 3
    assert "unfinished" in page.locator("tr", has_text="half.zarr").inner_text()
    assert page.locator("tr", has_text="half.zarr").locator("a").count() == 0
    page.keyboard.press("/")
    page.keyboard.type("second")
    until(page, "document.querySelector('#record-count').textContent === '1 record'")
    page.click("text=second.zarr")
    page.wait_for_url("**/overview?record=second.zarr")
    drawn(page, "overview-grid")


def test_a_chosen_head_goes_through_all_pages_and_survives_a_reload(explorer, visit):
    page = visit(explorer.url, "/overview?record=first.zarr")
    click_head(page, 2, 3)
    page.wait_for_url(re.compile("layer=2.*head=3"))
    assert (
        page.locator('[id*="layer"][id*="select"]').first.evaluate(
            "e => (e.value ?? e.querySelector('input').value)"
        )
        == "2"
    )
    page.click(".page-tab[data-page=text]")
    page.wait_for_url(re.compile(r"/text\?record=first.zarr&layer=2&head=3"))
    page.reload()
    page.wait_for_selector("#text-tokens .t")
    assert asked(page) == {"record": "first.zarr", "layer": "2", "head": "3"}


def test_pointing_at_a_token_lights_what_it_attends_to_and_back(explorer, visit, store):
    from probe.dashboard.explorer.state import State
    from probe.dashboard.explorer.tokens import links

    page = visit(explorer.url, "/text?record=first.zarr&layer=1&head=2")
    page.wait_for_selector("#text-tokens .t")
    page.hover('.t[data-at="5"]')
    page.wait_for_selector(".t.source")
    page.wait_for_selector(".t.to")
    page.wait_for_selector(".t.by")
    state = State(record="first.zarr", layer=1, head=2)
    for name, side in (("to", "query"), ("by", "key")):
        lit = page.eval_on_selector_all(f".t.{name}", "all => all.map(e => Number(e.dataset.at))")
        assert sorted(lit) == sorted(at for at, _ in links(state, store, 5, side))
    page.click('.t[data-at="5"]')
    page.wait_for_url("**query=5**")
    page.click('.t[data-at="3"]', modifiers=["Shift"])
    page.wait_for_url("**key=3**")


def test_the_text_says_what_the_record_says(explorer, visit, store):
    page = visit(explorer.url, "/text?record=first.zarr")
    page.wait_for_selector("#text-tokens .t")
    shown = page.eval_on_selector_all(
        "#text-tokens .t:not(.special)", "all => all.map(e => e.textContent).join('')"
    )
    tokens = store.open("first.zarr")["tokens"].isel(sample=0)
    texts = [
        str(t) for t, role in zip(tokens["text"].values, tokens["role"].values, strict=True) if role == "text"
    ]
    assert shown == "".join(texts)


def test_two_records_are_compared(explorer, visit):
    page = visit(explorer.url, "/overview?record=first.zarr&other=second.zarr&statistic=entropy")
    for panel in ("overview-grid", "overview-other", "overview-difference"):
        drawn(page, panel)
    read = """id => document.querySelector(`#${id}-figure .js-plotly-plot`).calcdata[0][0].z.flatMap(r => Array.from(r))"""
    first, second, apart = (
        np.array(page.evaluate(read, f"overview-{name}")) for name in ("grid", "other", "difference")
    )
    assert np.abs(apart).max() > 0
    np.testing.assert_allclose(apart, second - first, atol=1e-5)


def test_the_permalink_button_gives_the_whole_view(explorer, visit):
    page = visit(explorer.url, "/overview?record=first.zarr&layer=1&scale=log")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    drawn(page, "overview-grid")
    page.click("#permalink")
    page.wait_for_selector("#toast.on")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == f"{explorer.url}/overview?record=first.zarr&layer=1&scale=log"


def test_data_and_pictures_can_be_taken_away(explorer, visit):
    page = visit(explorer.url, "/overview?record=first.zarr&statistic=entropy")
    drawn(page, "overview-grid")
    taken = {}
    for kind in ("csv", "parquet", "npz", "png", "svg"):
        page.click("#overview-grid summary")
        with page.expect_download() as download:
            page.click(f"#overview-grid .take >> text={kind.upper()}")
        with open(download.value.path(), "rb") as file:
            taken[kind] = file.read()
        page.keyboard.press("Escape")
        page.click("#page h1")
    table = pandas.read_csv(io.BytesIO(taken["csv"]), comment="#")
    assert table["value"].to_numpy() == pytest.approx(
        pandas.read_parquet(io.BytesIO(taken["parquet"]))["value"]
    )
    arrays = np.load(io.BytesIO(taken["npz"]), allow_pickle=False)
    assert arrays["value"].ravel() == pytest.approx(table["value"].to_numpy(), rel=1e-6)
    assert taken["png"].startswith(b"\x89PNG")
    assert b"<svg" in taken["svg"][:200]


def test_keys_move_the_selection_and_the_theme(explorer, visit):
    page = visit(explorer.url, "/overview?record=first.zarr&layer=1&head=1")
    drawn(page, "overview-grid")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**head=2**")
    page.keyboard.press("ArrowUp")
    page.wait_for_url("**layer=0**")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.keyboard.press("d")
    assert page.evaluate("document.documentElement.dataset.theme") != before
    page.keyboard.press("Escape")
    page.wait_for_url("**/overview?record=first.zarr")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")


def test_a_text_is_explained_in_the_background_and_the_link_shows_it_again(explorer, visit):
    page = visit(explorer.url, "/explain")
    page.fill("#explain-text", "A warm and clever film.")
    page.click("#explain-run")
    page.wait_for_selector("#explain-bar.on")
    page.wait_for_url("**job=**", timeout=120_000)
    drawn(page, "explain-answer")
    drawn(page, "explain-test")
    words = page.locator("#explain-words").inner_text()
    assert "positive" in words
    page.reload()
    drawn(page, "explain-answer")
    assert page.locator("#explain-words").inner_text() == words
    assert page.input_value("#explain-text") == "A warm and clever film."


def test_a_job_can_be_cancelled(explorer, visit):
    page = visit(explorer.url, "/explain")
    page.fill("#explain-text", "Another film, which nobody will ever see explained. " * 6)
    page.click("#explain-run")
    page.wait_for_selector("#explain-bar.on")
    page.locator("#explain-step", has_text="…").wait_for(timeout=60_000)
    page.click("#explain-cancel")
    page.wait_for_selector("#explain-run:not([disabled])")
    assert "job" not in asked(page)
    assert page.locator("#explain-bar.on").count() == 0


def test_sinks_are_shrunk_and_the_answers_compared(explorer, visit):
    page = visit(explorer.url, "/calibrate?record=first.zarr&layer=1&head=2&beta=0")
    drawn(page, "calibrate-sinks")
    page.click("#calibrate-run")
    page.wait_for_url("**job=**", timeout=120_000)
    drawn(page, "calibrate-answers")
    drawn(page, "calibrate-freed")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/overview?layer=minus", "expected a whole number"),
        ("/overview?record=nothing.zarr", "no record 'nothing.zarr'"),
        ("/overview?record=half.zarr", "unfinished"),
        ("/nowhere", "no such page"),
        ("/overview", "Choose the record"),
    ],
)
def test_what_cannot_be_shown_says_why(explorer, visit, path, said):
    page = visit(explorer.url, path, wait=".state")
    assert said in page.locator(".state").inner_text()


@pytest.mark.parametrize("width", [1280, 820])
def test_nothing_is_cut_off_at_the_side(explorer, visit, width):
    for path in ("/", "/overview?record=first.zarr&other=second.zarr", "/text?record=first.zarr", "/explain",
                 "/calibrate?record=first.zarr"):  # fmt: skip
        page = visit(explorer.url, path, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
