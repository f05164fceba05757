"""The strip of layers: a planted disc at every depth, exact places, gates."""

import numpy as np
import pytest
import torch
from picture_cases import CENTRE, disc, network, picture
from tiny_cnns import Gated, seeded

from probe import InputError
from probe import explainers as ex


def test_every_layer_finds_the_disc_in_its_place():
    result = ex.layer_focus(network(), picture())
    assert [str(n) for n in result["name"].values] == ["conv", "deep"]
    assert result["cells"].values.tolist() == [48 * 48, 24 * 24]
    for map_ in result["focus"].values:
        weight = map_ / map_.sum()
        rows, columns = np.mgrid[:48, :48]
        assert (weight * rows).sum() == pytest.approx(CENTRE[0], abs=0.8)
        assert (weight * columns).sum() == pytest.approx(CENTRE[1], abs=0.8)
        assert disc(radius=9)[np.unravel_index(map_.argmax(), map_.shape)]
        assert map_.max() == 1.0
        assert map_.min() >= 0
    assert "The network sees “disc”" in ex.verbalize(result)


@pytest.mark.parametrize("method", ["gradcam", "gradient_x_activation", "activation", "gradient"])
def test_by_the_definitions(method):
    model = seeded(Gated())
    x = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    result = ex.layer_focus(model, x, layers="body", method=method, target="2", gates=False)
    kept = {}
    handle = model.body.register_forward_hook(lambda _m, _i, out: kept.update(out=out))
    score = model(x)[0, 2]
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept["out"])
    a, g = (t[0].detach().double().numpy() for t in (kept["out"], gradient))
    truth = {
        "gradcam": np.clip(np.einsum("c,chw->hw", g.mean((1, 2)), a), 0, None),
        "gradient_x_activation": np.clip((a * g).sum(0), 0, None),
        "activation": np.abs(a).mean(0),
        "gradient": np.abs(g).mean(0),
    }[method]
    found = result["focus"].values[0]
    centres = (np.arange(20) * 2 + 0).astype(int)  # centres of the cells: step 2
    at = found[np.ix_(centres, centres)]
    assert np.corrcoef(at.ravel(), truth.ravel())[0, 1] > 0.9


def test_spatial_gates_are_maps_and_channel_gates_are_named():
    result = ex.layer_focus(seeded(Gated()), torch.rand(1, 3, 40, 40))
    names = [str(n) for n in result["name"].values]
    assert names[-1] == "gate of spatial"
    assert result.attrs["channel_gates"] == ["squeeze"]
    without = ex.layer_focus(seeded(Gated()), torch.rand(1, 3, 40, 40), gates=False)
    assert "gate of spatial" not in [str(n) for n in without["name"].values]


def test_so_many_layers_at_most():
    one = ex.layer_focus(network(), picture(), most=1)
    assert one.sizes["map"] == 1
    with pytest.raises(InputError, match="no module is called 'nothing'"):
        ex.layer_focus(network(), picture(), layers="nothing")
