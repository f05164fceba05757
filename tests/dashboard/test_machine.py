"""`probe models` and `probe doctor`."""

import json

import pytest

from probe.models import catalog


def test_models_lists_all_with_licence_and_how_to_get_them(probe):
    shown = probe("models").out
    for card in catalog.list_models():
        line = next(line for line in shown.splitlines() if line.startswith(card.name))
        assert card.license in line
        assert card.task in line
        assert ("yes" in line) == card.installed


def test_models_as_json(probe):
    document = json.loads(probe("models", "--json").out)
    assert {m["name"] for m in document["models"]} == {card.name for card in catalog.list_models()}
    assert all(
        set(m) >= {"title", "task", "size_mb", "license", "installed", "note"} for m in document["models"]
    )


def test_installing_tells_its_steps_on_standard_error(probe, monkeypatch):
    steps = []

    def install(name, progress):
        print("library chatter")
        progress(f"fetching {name}")
        steps.append(name)

    monkeypatch.setattr("probe.models.install.install", install)
    ended = probe("models", "install", "smollm2")
    assert steps == ["smollm2"]
    assert ended.out == ""
    assert "fetching smollm2" in ended.err
    assert "smollm2 is ready" in ended.err


def test_doctor_tells_versions_devices_and_abilities(probe):
    import torch

    facts = json.loads(probe("doctor", "--json").out)
    assert facts["packages"]["torch"] == torch.__version__
    assert len(facts["devices"]["cuda"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    names = {ability["name"]: ability for ability in facts["abilities"]}
    assert names["model sentiment"]["works"] == catalog.is_installed(catalog.find("sentiment"))
    if not torch.cuda.is_available():
        assert not names["capture on CUDA"]["works"]
    assert all(ability["why"] for ability in facts["abilities"])


def test_doctor_in_words(probe):
    shown = probe("doctor").out
    assert "Python 3" in shown
    assert "works  capture on the CPU" in shown


@pytest.mark.parametrize(
    ("devices", "works", "word"),
    [
        ({"cuda": [], "cuda_of_torch": None}, False, "built without CUDA"),
        ({"cuda": [], "cuda_of_torch": "13.0"}, False, "finds no CUDA device"),
        ({"cuda": [{"name": "T4", "capability": "7.5"}], "cuda_of_torch": "13.0"}, False, "8.0 and later"),
        ({"cuda": [{"name": "H100", "capability": "9.0"}], "cuda_of_torch": "13.0"}, True, "on H100"),
    ],
)
def test_doctor_says_why_cuda_works_or_not(devices, works, word):
    from probe.dashboard.doctor import _cuda

    verdict, why = _cuda(devices, {"triton": "3.7"})
    assert verdict is works
    assert word in why
