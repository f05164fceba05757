"""Pages, their numbers and their data as functions: no browser, no server."""

import io
import json

import numpy as np
import pandas
import pytest

from probe.dashboard.explorer import downloads
from probe.dashboard.explorer.app import build, render
from probe.dashboard.explorer.page import pages
from probe.dashboard.explorer.panels import HIDDEN, PANELS, filled
from probe.dashboard.explorer.quantities import (
    difference,
    head_values,
    quantities,
    sink_positions,
    tower_name,
)
from probe.dashboard.explorer.state import State
from probe.dashboard.explorer.text_routes import WINDOW, whole, window
from probe.dashboard.explorer.tokens import codes, links, token_values
from probe.dashboard.explorer.units import mean_by, unit_of
from probe.errors import InputError

FIRST = State(record="first.zarr")


@pytest.fixture(scope="module")
def app(runs):
    return build(runs)


@pytest.fixture
def client(app):
    return app.server.test_client()


def test_a_statistic_of_a_head_is_its_mean_over_the_valid_tokens(store):
    got = head_values("entropy", FIRST, store)
    with np.errstate(all="ignore"):
        want = np.nanmean(store.fresh("first.zarr")["text/entropy"].values[0].astype(np.float64), axis=-1)
    np.testing.assert_allclose(got["value"], want, rtol=1e-6)


def test_of_what_is_received_the_largest_share_is_shown(store):
    data = store.fresh("first.zarr")["text"]
    share = data["received"].values[0].astype(np.float64) / data["seen_by"].values[0][:, None, :].clip(1)
    np.testing.assert_allclose(
        head_values("received", FIRST, store)["value"], np.nanmax(share, axis=-1), rtol=1e-6
    )


def test_without_sinks_their_tokens_are_left_out_and_named(store):
    state = FIRST.but(sinks="off")
    left, got = sink_positions(state, store), head_values("entropy", state, store)
    values = store.fresh("first.zarr")["text/entropy"].values[0].astype(np.float64)
    values[..., left] = np.nan
    np.testing.assert_allclose(got["value"], np.nanmean(values, axis=-1), rtol=1e-6)
    assert got.attrs["left_out"].startswith(f"{len(left)} sink tokens of ")


def test_a_difference_is_the_other_less_the_first(store):
    both = FIRST.but(other="second.zarr")
    apart = difference("entropy", both, store)["value"].values
    one, two = (
        head_values("entropy", State(record=name), store)["value"].values
        for name in ("first.zarr", "second.zarr")
    )
    np.testing.assert_array_equal(apart, two - one)


def test_every_head_table_of_the_registry_that_reads_this_record_is_offered(store):
    from probe import explainers as ex

    keys = [q.key for q in quantities(FIRST, store, run=True)]
    tables = [n for n, e in ex.registry().items() if e.shape == "reads" and e.kind == "head_table"]
    assert set(tables) <= set(keys)
    assert "sinks.sink_rate" in keys
    for key in keys:
        assert np.isfinite(head_values(key, FIRST, store)["value"].values).any(), key


def test_a_quantity_that_is_none_is_refused(store):
    for key in ("nothing", "pooled", "sinks.nothing", "__class__", "entropy.__class__"):
        with pytest.raises(InputError):
            head_values(key, FIRST, store)


def test_units_of_a_text():
    texts = ["<s>", "Mr", " Fox", " ran", ".", " He", " w", "on", "!", "\n\n", "End"]
    roles = ["special"] + ["text"] * 10
    assert unit_of(texts, roles, "word").tolist() == [0, 1, 2, 3, 3, 4, 5, 5, 5, 6, 7]
    assert unit_of(texts, roles, "sentence").tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4]
    assert unit_of(texts, roles, "segment").tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3]
    assert unit_of(texts, roles, "token").tolist() == list(range(11))
    values = np.array([1, 2, np.nan, 4], dtype=np.float32)
    assert mean_by(values, np.array([0, 1, 1, 1])).tolist() == [1, 3, 3, 3]


def test_colours_grow_with_the_values_and_leave_what_is_absent():
    values = np.array([0.0, 1.0, np.nan, 2.0, 4.0], dtype=np.float32)
    found, low, _ = codes(values, log=False)
    assert found[2] == 0
    assert low == 0
    assert (np.diff(found[[0, 1, 3, 4]].astype(int)) > 0).all()
    assert found.dtype == np.uint8
    logged, low, high = codes(values, log=True)
    assert logged[0] == 0
    assert low == pytest.approx(1.0)
    assert high <= 4.0


@pytest.mark.parametrize("side", ["query", "key"])
def test_links_are_those_of_the_exact_map(store, side):
    from probe.deepzoom.zoom import zoom

    state = FIRST.but(layer=2, head=1)
    n = store.open("first.zarr")["text"].sizes["query"]
    full = zoom(store.open("first.zarr"), layer=2, head=1, cells=(n, n))["value"].values
    row = full[6] if side == "query" else full[:, 6]
    got = links(state, store, 6, side)
    want = np.argsort(-np.nan_to_num(row, nan=-1), kind="stable")[: len(got)]
    assert [at for at, _ in got] == want.tolist()
    np.testing.assert_allclose([w for _, w in got], row[want], rtol=1e-5)


def test_without_q_and_k_the_strongest_key_is_lit(store):
    state = State(record="second.zarr", layer=2, head=1)
    data = store.open("second.zarr")["text"].isel(sample=0, layer=2, head=1)
    assert links(state, store, 4, "query") == [(int(data["max_key"][4]), float(data["max_prob"][4]))]
    back = links(state, store, int(data["max_key"][4]), "key")
    assert 4 in [at for at, _ in back]


def test_links_need_a_head_and_a_token_that_are_there(store):
    for state, at in ((FIRST, 0), (FIRST.but(layer=0, head=0), 10_000), (FIRST.but(layer=99, head=0), 0)):
        with pytest.raises(Exception, match=r"choose|expected|kept no") as refused:
            links(state, store, at, "query")
        assert type(refused.value).__module__.startswith("probe.")


def test_windows_join_to_the_text(store):
    found = whole(FIRST, store)
    windows = [window(FIRST, store, i) for i in range(-(-found["count"] // WINDOW))]
    texts = [t for w in windows for t in w["texts"]]
    assert texts == [str(t) for t in store.open("first.zarr")["tokens/text"].values[0]]
    with pytest.raises(InputError):
        window(FIRST, store, len(windows))


def test_tokens_are_the_mean_of_the_heads_that_are_left_open(store):
    values = store.fresh("first.zarr")["text/entropy"].values[0]
    got = token_values(FIRST.but(colour="entropy", layer=1), store)["value"].values
    np.testing.assert_allclose(got, values[1].mean(0), rtol=1e-5)


@pytest.mark.parametrize("kind", downloads.KINDS)
def test_data_behind_a_panel(client, store, kind):
    answer = client.get(f"/_data/overview-grid.{kind}?record=first.zarr&statistic=entropy")
    assert answer.status_code == 200
    want = head_values("entropy", FIRST, store)["value"].values.ravel()
    if kind == "npz":
        found = np.load(io.BytesIO(answer.data), allow_pickle=False)
        got, about = found["value"].ravel(), json.loads(str(found["attributes"]))
    elif kind == "csv":
        first, _, rest = answer.data.decode().partition("\n")
        got, about = (
            pandas.read_csv(io.StringIO(rest))["value"].to_numpy(),
            json.loads(first.removeprefix("# ")),
        )
    else:
        table = pandas.read_parquet(io.BytesIO(answer.data))
        got, about = table["value"].to_numpy(), {"unit": "nat"}
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert about["unit"] == "nat"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/_data/nothing.csv?record=first.zarr", 404),
        ("/_data/overview-grid.exe?record=first.zarr", 400),
        ("/_data/overview-grid.csv?record=../first.zarr", 400),
        ("/_data/overview-grid.csv?layer=x", 400),
        ("/_data/overview-grid.csv?record=half.zarr", 400),
        ("/_text/window?record=first.zarr&window=-1", 400),
        ("/_text/window?record=first.zarr", 400),
        ("/_text/links?record=first.zarr&at=1e9&layer=0&head=0", 400),
        ("/_text/whole?record=first.zarr&colour=nothing", 400),
        ("/_text/whole?nonsense=1", 400),
    ],
)
def test_bad_requests_are_answered_and_survived(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    assert b"Traceback" not in answer.data


def test_panels_say_unit_scale_and_what_was_left_out(app, store):
    for name in ("overview-grid", "overview-depth", "text-along", "calibrate-sinks"):
        figure, style, message, caption = filled(PANELS[name], FIRST, store)
        assert message is None, name
        assert figure.data, name
        for word in ("unit", "scale", "left out"):
            assert word in caption, (name, caption)
        assert style["height"].endswith("px")


def test_a_panel_that_cannot_be_filled_says_why(app, store):
    _, style, message, caption = filled(PANELS["overview-grid"], FIRST.but(statistic="nothing"), store)
    assert style == HIDDEN
    assert "no quantity" in str(message)
    assert caption == ""


def test_every_page_renders_for_a_record_or_says_why_not(app, store):
    known = pages()
    for name in known:
        shown, _ = render(f"/{name}", "?record=first.zarr", store, known)
        assert shown is not None
    for path, search in (("/nowhere", ""), ("/overview", "?layer=x"), ("/overview", "?record=half.zarr")):
        shown, _ = render(path, search, store, known)
        assert "error" in shown.className, path


def test_nothing_is_loaded_from_elsewhere(client):
    page = client.get("/").data.decode()
    assert "http://" not in page
    assert "https://" not in page.replace("https://dash.plotly.com", "")


def test_a_job_writes_what_it_was_asked_and_tells_how_far_it_is(store):
    told = []
    request = {"kind": "text", "text": "A warm film.", "model": "sentiment", "method": "occlusion"}
    job = store.jobs.run(request, lambda *step: told.append(step))
    assert [done for done, _, _ in told] == [0, 1, 2]
    result = store.jobs.result(job, "result", ("text",))
    assert result.attrs["kind"] == "token_strip"
    assert "positive" in " ".join(
        store.jobs.result(job, "words", ("text", "picture"))["text"].values.tolist()
    )
    with pytest.raises(InputError, match="another page's"):
        store.jobs.result(job, "result", ("steer",))
    assert store.jobs.has(job, "result", ("text",))
    assert not store.jobs.has(job, "result", ("picture",))
    assert store.jobs.run(request, lambda *_: told.append("again")) == job
    assert "again" not in told


def test_a_job_that_fails_says_its_one_line(store):
    with pytest.raises(InputError, match="nothing"):
        store.jobs.run({"kind": "nothing"}, lambda *_: None)
    for name in ("../x", "0" * 16, ""):
        with pytest.raises(InputError):
            store.jobs.result(name, "result", ("text",))


def test_numbers_are_those_of_the_tower_that_the_bar_names():
    """Whatever the order in which a folder's groups are listed: the bar reads the folder itself, by name."""
    import xarray as xr

    one = xr.Dataset({"entropy": (("layer", "head"), np.zeros((2, 3)))})
    tree = xr.DataTree.from_dict({"/vision": one, "/text": one})
    assert tower_name(FIRST, tree) == "text"
    assert tower_name(FIRST.but(tower="vision"), tree) == "vision"


def test_a_table_that_cannot_be_held_is_refused():
    import xarray as xr

    many = xr.Dataset({name: (name, np.zeros(400)) for name in ("patch", "area", "point")})
    for kind in ("csv", "parquet"):
        with pytest.raises(InputError, match=r"64,000,000 rows .* take NPZ"):
            downloads.encoded(many, kind)
    assert len(np.load(io.BytesIO(downloads.encoded(many, "npz")))["patch"]) == 400


def test_a_dropped_picture_is_the_picture_that_the_command_line_reads(store, tmp_path):
    from PIL import Image

    from probe._pictures import read_picture

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter to be seen upright
    Image.linear_gradient("L").resize((40, 20)).save(tmp_path / "a.jpg", exif=exif)
    kept = store.jobs.picture(store.jobs.keep_picture((tmp_path / "a.jpg").read_bytes()))
    np.testing.assert_array_equal(read_picture(kept), read_picture(tmp_path / "a.jpg"))


def test_only_pictures_are_kept(store):
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    name = store.jobs.keep_picture(file.getvalue())
    assert store.jobs.picture(name).suffix == ".png"
    for data in (b"", b"<svg onload='x'/>", b"\x80\x04pickle"):
        with pytest.raises(InputError, match="picture"):
            store.jobs.keep_picture(data)
    with pytest.raises(InputError):
        store.jobs.picture("../../etc/passwd")
