"""A real browser walks the map: it pans, zooms to a cell, reads its exact weight, chooses it, and comes back by the link."""

import re

import pytest
from browsing import until

pytestmark = pytest.mark.slow
ZOOM = "document.querySelector('.deepzoom-place').zoom"


@pytest.fixture
def visit(browser, served):
    """Open an address; whatever the console says fails the test at its end."""
    opened, said = [], []

    def go(address, width=1280, height=960):
        page = browser.new_page(viewport={"width": width, "height": height})
        opened.append(page)
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on(
            "request",
            lambda r: said.append(r.url) if not r.url.startswith((served, "data:", "blob:")) else None,
        )
        page.goto(served + address)
        if "head" in address:
            page.wait_for_selector(".deepzoom-place[data-state=ready][data-busy=false]", timeout=30_000)
        return page

    yield go
    for page in opened:
        page.close()
    assert said == []


def at(page, query, key):
    """Where a cell stands on the screen."""
    x, y = page.evaluate(f"{ZOOM}.pixel([{query}, {key}])")
    box = page.locator(".deepzoom-place canvas[tabindex]").bounding_box()
    return box["x"] + x, box["y"] + y


def settled(page):
    page.wait_for_timeout(400)
    page.wait_for_selector(".deepzoom-place[data-busy=false]")


def weight(page):
    page.wait_for_selector(".dz-readout:not([data-exact=''])")
    return page.locator(".dz-readout").get_attribute("data-exact")


def test_zooming_to_a_cell_reads_its_exact_weight(visit, maps):
    page = visit("/head?record=pooled.zarr")
    assert "8 × 8" not in page.locator(".dz-level").inner_text() or page.evaluate(f"{ZOOM}.size") == 8
    for _ in range(4):
        page.mouse.move(*at(page, 700, 690))
        page.mouse.wheel(0, -400)
        settled(page)
    assert page.evaluate(f"{ZOOM}.size") == 1
    assert "each pair by itself" in page.locator(".dz-level").inner_text()
    page.mouse.move(*at(page, 700, 690))
    assert float(weight(page)) == pytest.approx(maps["pooled"][700, 690], rel=2e-5)
    assert "“␣w000700” → key 690 “␣w000690”" in page.locator(".dz-readout").inner_text()
    page.mouse.move(*at(page, 690, 700))
    until(page, "document.querySelector('.dz-readout').dataset.exact === 'hidden'")
    assert "hidden by the rules" in page.locator(".dz-readout").inner_text()


def test_dragging_pans_and_the_link_comes_back_to_the_same_view(visit):
    page = visit("/head?record=pooled.zarr&region=300-500x300-500")
    before = page.evaluate(f"[{ZOOM}.x, {ZOOM}.y, {ZOOM}.scale]")
    x, y = at(page, 400, 400)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y - 30, steps=4)
    page.mouse.up()
    settled(page)
    after = page.evaluate(f"[{ZOOM}.x, {ZOOM}.y, {ZOOM}.scale]")
    assert after[0] - before[0] == pytest.approx(60 / before[2], rel=1e-3)
    assert after[1] - before[1] == pytest.approx(30 / before[2], rel=1e-3)
    page.mouse.click(*at(page, 410, 405))
    until(page, "location.search.includes('query=410') && location.search.includes('key=405')")
    page.wait_for_selector("#head-keys .js-plotly-plot .bars")
    address = re.sub(r"^https?://[^/]+", "", page.url)
    again = visit(address)
    until(again, f"{ZOOM}.selected !== null")
    assert again.evaluate(f"{ZOOM}.selected") == [410, 405]
    now = again.evaluate(f"[{ZOOM}.x, {ZOOM}.y, {ZOOM}.scale]")
    assert now == pytest.approx(after, abs=2.0)


def test_the_keyboard_walks_zooms_and_chooses(visit):
    page = visit("/head?record=short.zarr&region=100-140x90-130")
    canvas = page.locator(".deepzoom-place canvas[tabindex]")
    canvas.focus()
    for key in ("ArrowDown", "ArrowLeft", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    query, key = page.evaluate(f"{ZOOM}.selected")
    until(page, f"location.search.includes('query={query}') && location.search.includes('key={key}')")
    scale = page.evaluate(f"{ZOOM}.scale")
    page.keyboard.press("-")
    assert page.evaluate(f"{ZOOM}.scale") == pytest.approx(scale / 2)
    page.keyboard.press("0")
    assert page.evaluate(f"{ZOOM}.scale === {ZOOM}.fitScale")


def test_what_is_drawn_is_what_the_codes_say(visit, maps):
    """The colour of a cell in the middle of its square is the colour of its weight."""
    page = visit("/head?record=short.zarr&region=500-520x495-515")
    cells = [[510, 510], [510, 505], [512, 496]]
    drawn = page.evaluate(
        f"(() => {{ const z = {ZOOM}, c = z.canvas, all = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; "
        f"return {cells}.map((at) => {{ const [x, y] = z.pixel(at).map((v) => Math.floor(v * z.ratio)); "
        "return [...all.slice(4 * (y * c.width + x), 4 * (y * c.width + x) + 3)]; }); })()"
    )
    for (query, key), colour in zip(cells, drawn, strict=True):
        code = page.evaluate(f"{ZOOM}.codeAt({query}, {key})")
        assert colour == page.evaluate(f"(c => [c & 255, c >> 8 & 255, c >> 16 & 255])({ZOOM}.lut[{code}])")
        assert 2 ** ((code - 255) / 8) == pytest.approx(maps["short"][query, key], rel=0.045)


def test_another_head_and_what_was_not_kept_are_told(visit):
    page = visit("/head?record=short.zarr")
    page.goto(page.url.split("?")[0] + "?record=short.zarr&layer=5")
    page.wait_for_selector("text=kept queries and keys of the layers 0 only")


def test_the_page_fits_a_tablet(visit):
    width = 820
    page = visit("/head?record=short.zarr&query=20&key=3", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.wait_for_selector("#head-distances .js-plotly-plot .bars")
