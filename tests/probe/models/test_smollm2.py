"""The real language model: what is known of it comes out."""

import hashlib
import time

import pytest
import torch

import probe
from probe.models import catalog

pytestmark = pytest.mark.real

LICENSE = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "Software"), to deal in the Software without restriction, including without limitation '
    "the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and "
    "to permit persons to whom the Software is furnished to do so, subject to the following conditions: "
    "The above copyright notice and this permission notice shall be included in all copies or substantial portions of "
    'the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT '
    "LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT "
    "SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF "
    "CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS "
    "IN THE SOFTWARE."
)


@pytest.fixture(scope="module")
def loaded():
    if not catalog.is_installed(catalog.find("smollm2")):
        pytest.skip("needs SmolLM2: `probe models install smollm2`")
    return probe.load("smollm2", device="cpu")


def next_token(loaded, text):
    with torch.no_grad():
        return loaded.model(**loaded.processor(text, return_tensors="pt")).logits[0, -1]


def perplexity(loaded, text):
    ids = loaded.processor(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return float(loaded.model(ids, labels=ids).loss.exp())


def test_it_is_the_model_that_it_should_be(loaded):
    config = loaded.model.config
    shape = (
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.vocab_size,
    )
    assert shape == (30, 9, 3, 49152)
    assert (loaded.source, loaded.task, loaded.license) == ("package", "text-generation", "Apache-2.0")
    assert loaded.model.dtype == torch.float32


def test_the_converted_weights_are_the_ones_checked_once(loaded):
    """This file was compared with transformers' own reading of the GGUF file: all 272 tensors bit-identical."""
    file = catalog.installed_folder(catalog.find("smollm2")) / "model.safetensors"
    if not file.is_file():
        pytest.skip("the weights are used from elsewhere")
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith("a672150fb4f99d7c")


def test_it_loads_in_seconds(loaded):
    start = time.process_time()
    probe.load("smollm2", device="cpu")
    assert time.process_time() - start < 10


def test_known_facts(loaded):
    decode = loaded.processor.decode
    assert decode(next_token(loaded, "The capital of France is").argmax()) == " Paris"
    logits = next_token(loaded, "When Mary and John went to the store, John gave a drink to")
    mary, john = (loaded.processor(name).input_ids[0] for name in (" Mary", " John"))
    assert decode(logits.argmax()) == " Mary"
    assert float(logits[mary] - logits[john]) > 3  # 6.1 in float32
    assert 2.4 < perplexity(loaded, LICENSE) < 3.3  # 2.65 with its line breaks, 2.85 without
    shuffled = " ".join(sorted(LICENSE.split(), key=lambda w: hashlib.md5(w.encode()).hexdigest()))
    assert perplexity(loaded, shuffled) > 100


def test_its_chat_template_works(loaded):
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert loaded.processor("<|im_end|>").input_ids == [2]


def test_its_tokens_give_the_text_back(loaded):
    text = "In 2024, about 1,357 people (naïve ones!) saw   it.\n\tWhy? 😀"
    ids = loaded.processor(text).input_ids
    assert loaded.processor.decode(ids) == text
