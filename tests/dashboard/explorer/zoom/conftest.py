"""Records of the explorer's tests: small, made up by the same kernels, and the whole maps that they describe."""

import numpy as np
import pytest
import torch
from long_record import made_up_head, write

LENGTHS = {"short": 1000, "pooled": 1100}


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """A folder with `short.zarr`, computed when looked at, and `pooled.zarr`, which holds pooled maps as long records do."""
    from probe.deepzoom.kept import Kept

    folder = tmp_path_factory.mktemp("runs")
    write(LENGTHS["short"], folder / "short.zarr", progress=lambda _: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "large", property(lambda self: True))
        write(LENGTHS["pooled"], folder / "pooled.zarr", progress=lambda _: None)
    return folder


@pytest.fixture(scope="session")
def maps():
    """The whole map of each record in float64."""
    found = {}
    for name, n in LENGTHS.items():
        q, k = (x[0, 0].double() for x in made_up_head(n))
        scores = (q @ k.T).masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
        found[name] = scores.softmax(-1).numpy().astype(np.float64)
    return found


@pytest.fixture(scope="session")
def app(records):
    from probe.dashboard.explorer.app import build

    return build(records)


@pytest.fixture
def client(app):
    return app.server.test_client()


@pytest.fixture(scope="session")
def served(app):
    """The explorer on a free port of this machine, in threads of this process."""
    import threading

    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
