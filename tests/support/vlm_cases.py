"""Tiny random vision-language models of real families as `probe.load` would give them, and pictures to ask about."""

import functools
import types

import numpy as np
import tiny_vision

#: Families whose text holds image tokens, with a processor of pictures and text.
FAMILIES = [name for name, case in tiny_vision.CASES.items() if case.text is not None]
#: As the chat templates of the Qwen family write a picture.
QWEN = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


class QwenProcessor:
    """What Qwen's processor does to pictures and text; the class itself wants torchvision for its videos."""

    chat_template = QWEN

    def __init__(self, images):
        self.image_processor, self.tokenizer = images, tiny_vision.tokenizer()

    def apply_chat_template(self, messages, **_):
        import jinja2

        return jinja2.Template(QWEN).render(messages=messages)

    def __call__(self, images, text, return_tensors):
        assert (len(text), return_tensors) == (1, "pt")
        inputs = dict(self.image_processor(images, return_tensors="pt"))
        counts = [int(grid.prod()) // self.image_processor.merge_size**2 for grid in inputs["image_grid_thw"]]
        ids = self.tokenizer(text[0])["input_ids"]
        return inputs | tiny_vision.qwen_text(
            [tiny_vision.spread(ids, tiny_vision.IDS["<|image_pad|>"], counts)]
        )

    def to_dict(self):
        return {"image_processor": self.image_processor.to_dict()}


@functools.cache
def vlm(name="llava-siglip"):
    """The model of a case of `tiny_vision`, its text attention not flat."""
    import torch

    case = tiny_vision.CASES[name]
    images = tiny_vision.image_processor(case, 3)
    with torch.random.fork_rng():
        model = tiny_vision.model(case)
    processor = tiny_vision.full_processor(case, images) if case.full else QwenProcessor(images)
    return types.SimpleNamespace(
        model=model,
        processor=processor,
        name=name,
        task="image-text-to-text",
        source="folder",
        revision="0",
        license="none",
    )


def scene(height=40, width=64, seed=0):
    """A noisy picture with one bright square, [H, W, 3]."""
    values = np.random.default_rng(seed).integers(0, 90, (height, width, 3), dtype=np.uint8)
    values[height // 4 : height // 2, width // 2 : 3 * width // 4] = (250, 220, 40)
    return values
