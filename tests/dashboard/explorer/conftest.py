"""A served explorer over real records, and a browser whose every console error fails its test."""

import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

TEXTS = [
    "The plot is thin, but the acting is a delight. I would see it again, and so would you.",
    "A dull film.",
]
OTHERS = [
    "The plot is rich, but the acting is a disgrace. I would not see it again, and neither would you.",
    "A good film.",
]
STATS = ("entropy", "received", "max_prob", "max_key", "distance")


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder with two whole records of the embedded model, one of them with q, k and v, and one half written."""
    import probe

    folder = tmp_path_factory.mktemp("runs")
    model = probe.load("sentiment")
    probe.capture(model, TEXTS, stats=STATS, store=folder / "first.zarr", keep="qkv")
    probe.capture(model, OTHERS, stats=STATS, store=folder / "second.zarr")
    shutil.copytree(folder / "second.zarr", folder / "half.zarr")
    root = folder / "half.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"status": "complete"', '"status": "writing"'))
    return folder


@pytest.fixture(scope="session")
def store(runs):
    from probe.dashboard.explorer.store import Store

    return Store(runs)


def serve(folder):
    """The explorer of a folder on a free port of this machine."""
    from werkzeug.serving import make_server

    from probe.dashboard.explorer.app import build

    app = build(folder)
    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return SimpleNamespace(app=app, url=f"http://127.0.0.1:{server.server_port}", stop=server.shutdown)


@pytest.fixture(scope="session")
def explorer(runs):
    served = serve(runs)
    yield served
    served.stop()


@pytest.fixture
def visit(browser, request, tmp_path):
    """Open an address; after the test, a console error, a failed script or a foreign request fails it."""
    opened, faults = [], []

    def go(base, path="/", width=1280, height=900, wait="#page h1"):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(30_000)
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.on(
            "request", lambda r: None if r.url.startswith((base, "data:", "blob:")) else faults.append(r.url)
        )
        page.goto(base + path)
        page.wait_for_selector(wait)
        opened.append(page)
        return page

    yield go
    kept = Path(os.environ.get("PROBE_SCREENSHOTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(opened):
        page.screenshot(path=kept / f"{request.node.name}-{number}.png")
        page.close()
    assert faults == []
