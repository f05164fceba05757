"""A language model built by hand in which one head is known to hurt, and the task that it spoils.

Four layers of four heads, no feed-forward parts. A text holds "good" or "bad" and ends in "ask"; the answer is " yes" or " no".
The reader (layer 0, head 0) looks at good or bad and says the right thing. The spoiler (layer 2, head 1) looks at the word
"junk", wherever it stands, and says "no" everywhere, louder than the reader: its sink overwrites the answer. With the sink at
0.4 of its weight the reader wins. All other heads are small random numbers: nearly uniform maps, in which nothing is a sink.
"""

import numpy as np
from explainer_cases import loaded

WORDS = [f"w{i}" for i in range(12)]
VOCABULARY = ["<pad>", "<unk>", "good", "bad", "junk", "ask", "yes", "no", *WORDS]
SPOILER, READER = (2, 1), (0, 0)
SIZE, CONSTANT, YES, NO = 32, 31, 30, 29


def words():
    """A tokenizer that knows whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>")


def planted(spoiled=10.0, seed=0):
    """The model; `spoiled` is how loud the spoiler is, 0 for not at all."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=SIZE,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=8,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},  # dims 3 and 7 of a head do not turn
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.01)
            for layer in model.model.layers:
                layer.mlp.down_proj.weight.zero_()
            embed = torch.eye(len(VOCABULARY), SIZE)
            embed[:, CONSTANT] = 1
            model.model.embed_tokens.weight.copy_(embed)
            model.lm_head.weight.zero_()
            model.lm_head.weight[VOCABULARY.index("yes"), YES] = 1
            model.lm_head.weight[VOCABULARY.index("no"), NO] = 1
            _head(model, READER, {"good": 6.0, "bad": -6.0}, YES)
            if spoiled:
                _head(model, SPOILER, {"junk": spoiled}, NO)
    return loaded(model, words(), "text-generation")


def _head(model, place, says, channel):
    """A head that looks at some words from everywhere, and writes a number into a channel of the residual stream."""
    layer, head = place
    attention = model.model.layers[layer].self_attn
    row = 8 * head
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[row : row + 8] = 0
    attention.o_proj.weight[:, row : row + 8] = 0
    attention.q_proj.weight[row + 3, CONSTANT] = 2
    for word, loudness in says.items():
        place = VOCABULARY.index(word)
        attention.k_proj.weight[row + 3, place] = 2
        attention.v_proj.weight[row, place] = loudness / 4  # a word is 4 long after the norm
    attention.o_proj.weight[channel, row] = 1


def lines(count, seed=0):
    """Items of the task, as lines of a file: half of them yes."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        text = list(draw.choice(WORDS, size=int(draw.integers(8, 14))))
        text[int(draw.integers(1, 4))] = "junk"
        text[int(draw.integers(4, len(text)))] = ("good", "bad")[number % 2]
        found.append({"prompt": " ".join([*text, "ask"]), "choices": [" yes", " no"], "answer": number % 2})
    return found
