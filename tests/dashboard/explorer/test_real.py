"""A real language model's record: its heads and its text in the browser."""

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]
TEXT = (
    "Marie Curie was born in Warsaw in 1867. She moved to Paris to study physics, because women could not attend "
    "university in Poland. In 1903 she shared the Nobel Prize in Physics with Pierre Curie and Henri Becquerel."
)


@pytest.fixture(scope="module")
def curie(runs):
    import probe
    from probe.models import catalog

    if not catalog.is_installed(catalog.find("smollm2")):
        pytest.skip("smollm2 is not installed (probe models install smollm2)")
    stats = ("entropy", "received", "max_prob", "max_key")
    probe.capture(probe.load("smollm2"), [TEXT], stats=stats, store=runs / "curie.zarr", keep="qkv")
    return "curie.zarr"


def test_the_heads_and_the_text_of_a_language_model(curie, explorer, visit):
    page = visit(explorer.url, f"/overview?record={curie}&statistic=sinks.first_token")
    page.wait_for_selector("#overview-grid-figure .hm image")
    shape = page.evaluate(
        "(z => [z.length, z[0].length])(document.querySelector('#overview-grid-figure .js-plotly-plot').calcdata[0][0].z)"
    )
    assert shape == [30, 9]
    page = visit(explorer.url, f"/text?record={curie}&layer=9&head=4&query=20")
    page.wait_for_selector(".t.to")
    shown = page.eval_on_selector_all("#text-tokens .t", "all => all.map(e => e.textContent).join('')")
    assert shown == TEXT
