"""What the calls shown in the README are made with: small real models of each kind."""

import torch


def for_call(code):
    """The names that a call uses."""
    if "bridge" in code:
        return bridge()
    if "vlm" in code:
        return pictures()
    if "zoom" in code:
        return kept()
    return simple(code)


def simple(code):
    """Models that need one line."""
    import mil_models
    import tiny_cnns
    from own_models import PictureTransformer, own
    from tiny_models import batch, inputs_for, tiny

    ids, mask = batch([9, 6], 9)
    if '"src"' in code:
        layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        return {"model": encoder, "x": torch.randn(2, 7, 32)}
    if "vit" in code:
        return {"vit": own(PictureTransformer), "pixels": torch.randn(1, 3, 16, 16)}
    if "cnn" in code:
        cnn = tiny_cnns.seeded(torch.nn.Sequential())
        cnn.add_module("layer4", torch.nn.Conv2d(3, 4, 3))
        return {"cnn": cnn.eval(), "pixels": torch.randn(1, 3, 16, 16)}
    if "mil" in code:
        model = mil_models.seeded(Weighing())
        return {"model": model, "bag": mil_models.bag(12)}
    if "generation" in code:
        return {"model": tiny("llama"), "text": {"input_ids": ids[:1]}}
    if "corpus" in code:
        return {
            "model": tiny("llama"),
            "texts": [{"input_ids": ids[0].tolist()}, {"input_ids": ids[0, :5].tolist()}],
        }
    own_model = tiny("bloom", "eager")
    return {"model": own_model, "inputs": inputs_for("bloom"), "ids": ids, "mask": mask}


class Weighing(torch.nn.Module):
    """Attention-MIL with a module that gives the weights."""

    def __init__(self):
        super().__init__()
        self.attention = torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.Softmax(0))
        self.classes = torch.nn.Linear(6, 2)

    def forward(self, bag):
        """Classes of a bag [N, 6]."""
        return self.classes((self.attention(bag) * bag).sum(0))


def bridge():
    """A TransformerLens bridge over a copy of a tiny GPT-2."""
    from tiny_models import batch, tiny

    from probe.taps.lens import bridge_of

    model = tiny("gpt2", "eager")
    model.config.architectures = ["GPT2LMHeadModel"]
    return {"bridge": bridge_of(model), "ids": batch([9], 9)[0]}


def pictures():
    """A vision–language model, its processor, one picture."""
    import tiny_vision as tv

    case = tv.CASES["qwen2-vl"]
    processor = tv.image_processor(case, 4)
    inputs = dict(tv.inputs_of(case, processor, [tv.noise((200, 350), 0)]))
    return {"vlm": tv.model(case), "processor": processor, "inputs": inputs, "height": 200, "width": 350}


def kept():
    """A record of 4,000 tokens that kept a head."""
    from tiny_models import batch, tiny

    import probe

    model = tiny("llama", num_hidden_layers=4, num_attention_heads=8, max_position_embeddings=4096)
    options = {"layers": [3], "keep": "qkv", "heads": {3: [5]}}
    return {"record": probe.capture(model, {"input_ids": batch([4000], 4000)[0]}, **options)}
