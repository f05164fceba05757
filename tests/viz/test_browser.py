"""A real browser opens the report without a network: no request, no message, nothing hostile runs."""

import pytest

from probe import viz

pytestmark = pytest.mark.slow


def visit(browser, path, width=1280):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.context.set_offline(True)
    seen = {"requests": [], "messages": [], "dialogs": []}
    page.on("request", lambda r: seen["requests"].append(r.url))
    page.on("console", lambda m: seen["messages"].append(m.text))
    page.on("pageerror", lambda e: seen["messages"].append(str(e)))
    page.on("dialog", lambda d: (seen["dialogs"].append(d.message), d.dismiss()))
    page.goto(path.resolve().as_uri())
    return page, seen


@pytest.fixture
def page_and_log(browser, strip_with_curves, head_table, words, tmp_path):
    path = viz.report([strip_with_curves, head_table], tmp_path / "r.html", texts=words)
    page, seen = visit(browser, path)
    page.wait_for_selector("#figure-2 .heatmaplayer image", timeout=20_000)
    yield page, seen
    page.close()


def test_the_report_draws_offline_without_requests_or_messages(page_and_log):
    page, seen = page_and_log
    assert page.locator(".js-plotly-plot .main-svg").count() >= 2
    assert [url for url in seen["requests"] if not url.startswith("file:")] == []
    assert len(seen["requests"]) == 1
    assert seen["messages"] == []


def test_hovering_a_token_tells_its_score(page_and_log):
    page, _ = page_and_log
    page.locator(".t.against", has_text="thin").hover()
    assert "−0.41" in page.locator("#tip").inner_text()
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280


def test_selecting_the_text_gives_the_input_back(page_and_log):
    page, _ = page_and_log
    copied = page.evaluate(
        "() => { const r = document.createRange(); r.selectNodeContents(document.querySelector('.text'));"
        " const s = getSelection(); s.removeAllRanges(); s.addRange(r); return s.toString(); }"
    )
    assert copied.strip() == "The plot is thin, but the acting is a delight."


def test_the_page_fits_a_phone(browser, strip_with_curves, tmp_path):
    page, seen = visit(browser, viz.report(strip_with_curves, tmp_path / "r.html"), width=390)
    page.wait_for_selector("#figure-1 .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert seen["messages"] == []
    page.close()


def test_a_hostile_text_is_inert(browser, make_strip, tmp_path):
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    hostile = make_strip([evil, " b"], [1.0, -1.0], target=evil, model=evil, title=evil)
    page, seen = visit(browser, viz.report(hostile, tmp_path / "r.html", title=evil, texts=[evil]))
    page.wait_for_timeout(300)
    assert seen["dialogs"] == []
    assert len(seen["requests"]) == 1
    assert evil in page.locator(".words").inner_text()
    page.close()


def test_the_token_figure_draws_without_messages(browser, strip, make_strip, tmp_path):
    figures = [viz.draw(strip), viz.draw(make_strip(["日本", "語", "\n", " <b>"], [1.0, -0.5, 0.1, 0.0]))]
    source = "".join(f.to_html(include_plotlyjs=not i, full_html=False) for i, f in enumerate(figures))
    path = tmp_path / "f.html"
    path.write_text(f"<meta charset=utf-8>{source}", encoding="utf-8")
    page, seen = visit(browser, path)
    page.wait_for_selector(".barlayer .bars")
    texts = page.locator(".bartext").all_text_contents()
    assert {"acting", "日本", "<b>"} <= set(texts)
    assert seen["messages"] == []
    page.close()
