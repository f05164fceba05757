"""Seconds of Whisper's positions, proven by changing single samples of a recording."""

import numpy as np
import pytest
import torch

from probe.errors import InputError, ModelError
from probe.families.vision import patches

RATE = 16000


@pytest.fixture(scope="module")
def whisper():
    import transformers

    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=20,
        max_source_positions=100,
        vocab_size=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return transformers.WhisperModel(config).eval(), transformers.WhisperFeatureExtractor(20, chunk_length=2)


def heard(net, extractor, sounds):
    caught = []
    features = extractor(sounds, sampling_rate=RATE, return_tensors="pt")["input_features"]
    hook = net.encoder.layers[0].register_forward_pre_hook(
        lambda module, given: caught.append(given[0].clone())
    )
    with torch.no_grad():
        net.encoder(features)
    hook.remove()
    return {"input_features": features}, caught[0]


def test_a_changed_sample_changes_the_positions_within_reach(whisper):
    net, extractor = whisper
    # whole chunks: in silence a spectrogram is as high as the recording's loudest place lets it be
    sounds = [np.random.default_rng(n).normal(size=32000).astype(np.float32) for n in range(2)]
    inputs, before = heard(net, extractor, sounds)
    table = patches(net.config, inputs, [len(s) for s in sounds], extractor)
    assert table["start_s"].shape == before.shape[:2]
    for number, sample in ((0, 16000), (0, 3217), (0, 16120), (1, 8200), (1, 10234)):
        other = [s.copy() for s in sounds]
        other[number][sample] += 30.0
        _, after = heard(net, extractor, other)
        places = (before - after).abs().amax(-1)
        low, high = (table[f"reach_{end}_s"].values[number] for end in ("start", "end"))
        time, edge = sample / RATE, 30 / RATE  # a window's first and last samples weigh next to nothing
        felt = places[number].numpy() > 1e-4
        assert felt[(low + edge < time) & (time < high - edge)].all()
        assert not felt[(high <= time) | (time < low)].any()
        centre = (table["start_s"].values[number] <= time) & (time < table["end_s"].values[number])
        assert centre.sum() == 1
        assert felt[centre].all()
        assert not felt.all()
        assert places[1 - number].max() == 0


def test_cells_cover_the_chunk_and_inside_is_the_recording(whisper):
    net, extractor = whisper
    sounds = [np.ones(32000, np.float32), np.ones(21111, np.float32)]
    inputs, _ = heard(net, extractor, sounds)
    table = patches(net.config, inputs, [32000, 21111], extractor)
    assert table["start_s"].values[0, 0] == 0
    assert np.array_equal(table["start_s"].values[:, 1:], table["end_s"].values[:, :-1])
    assert table["end_s"].values[0, -1] == 2
    assert (table["inside"].values[0] == 1).all()
    covered = (table["inside"] * (table["end_s"] - table["start_s"])).sum("token").values
    np.testing.assert_allclose(covered, [2, 21111 / RATE], rtol=1e-12)


def test_contradictions_are_refused(whisper):
    net, extractor = whisper
    inputs, _ = heard(net, extractor, [np.ones(32000, np.float32)])
    with pytest.raises(InputError, match="expected the number of samples"):
        patches(net.config, inputs, [(1, 2)], extractor)
    with pytest.raises(InputError, match="cut the recording"):
        patches(net.config, inputs, [32001], extractor)
    with pytest.raises(InputError, match="expected 2 recordings"):
        patches(net.config, inputs, [32000, 5], extractor)
    with pytest.raises(ModelError, match="do not make"):
        patches(net.config, inputs, [32000], {**extractor.to_dict(), "hop_length": 80})
