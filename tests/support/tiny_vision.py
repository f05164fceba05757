"""Tiny vision towers and vision-language models with the real processors in front of them, all built offline.

`vision_cases` says what belongs together; here it is built, run, changed and looked at.
"""

import ast
import copy
import importlib
import math
from pathlib import Path

import numpy as np
import torch
from vision_cases import CASES, IDS, SPECIAL, TEXTS

__all__ = ["CASES", "IDS", "TEXTS"]


def pil(name, **settings):
    """A real image processor of the PIL kind, "family.Class"."""
    family, cls = name.split(".")
    module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    return getattr(module, cls)(**copy.deepcopy(settings))


def image_processor(case, resample):
    return pil(case.processor[0], **case.processor[1], resample=resample)


def tokenizer():
    """Letters are tokens, and so are all special names."""
    import tokenizers
    import transformers

    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(IDS), unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    inner.add_special_tokens(SPECIAL)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
    )


def full_processor(case, images):
    """The real processor of pictures and text."""
    import transformers

    name, settings = case.full
    return getattr(transformers, name)(image_processor=images, tokenizer=tokenizer(), **settings)


def inputs_of(case, images, arrays, text="ab{}c"):
    """What the model takes for pictures (arrays [H, W, 3]) in one prompt: `text` once per picture, with its place."""
    from PIL import Image

    pictures = [Image.fromarray(array) for array in arrays]
    if case.text is None:
        return dict(images(pictures, return_tensors="pt"))
    prompt = "".join(text.format(case.prompt) for _ in arrays)
    if case.full:
        return dict(full_processor(case, images)(images=pictures, text=[prompt], return_tensors="pt"))
    inputs = dict(images(pictures, return_tensors="pt"))
    counts = [int(grid.prod()) // images.merge_size**2 for grid in inputs["image_grid_thw"]]
    ids = spread(tokenizer()(prompt)["input_ids"], IDS["<|image_pad|>"], counts)
    return {**inputs, **qwen_text([ids])}


def spread(ids, place, counts):
    """Ids with each placeholder repeated as often as the next of `counts` says."""
    left = iter(counts)
    return [token for i in ids for token in [i] * (next(left) if i == place else 1)]


def qwen_text(rows):
    """Ids, mask and kinds of token (1 picture, 2 video) of prompts of one length."""
    ids = torch.tensor(rows)
    kinds = (ids == IDS["<|image_pad|>"]) * 1 + (ids == IDS["<|video_pad|>"]) * 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds.int()}


def model(case, seed=0):
    """The model, random and large enough to react; the tower's attention adds nothing, so that positions stay apart."""
    import transformers

    cls, config, settings = case.model
    torch.manual_seed(seed)
    net = getattr(transformers, cls)(getattr(transformers, config)(**copy.deepcopy(settings)))
    tower = net.get_submodule(case.towers)
    with torch.no_grad():
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        silenced = 0
        for name, module in tower.named_modules():
            if name.endswith(("out_proj", "o_proj", "attn.proj")):
                module.weight.zero_()
                silenced += 1
                if module.bias is not None:
                    module.bias.zero_()
    assert silenced, [n for n, _ in tower.named_modules()]
    return net.eval()


def only_colours(net, case):
    """Make the tower's first channels the mean colours (red, green, blue) of each patch, and nothing else."""
    with torch.no_grad():
        for name, parameter in net.get_submodule(case.towers).named_parameters():
            if "embed" in name and "patch" not in name:
                parameter.zero_()
        conv = net.get_submodule(case.flatten)
        conv.weight.zero_()
        if conv.bias is not None:
            conv.bias.zero_()
        for channel in range(3):
            conv.weight[channel, channel] = 1 / conv.weight[channel, channel].numel()


def seen(net, path, side, inputs):
    """What comes into or out of a module (all its calls) while the model runs."""
    caught = []

    def before(module, given, named):
        value = given[0] if given else named.get("inputs_embeds", named.get("hidden_states"))
        caught.append(value.detach().clone())

    def after(module, given, named, output):
        caught.append(output.detach().clone())

    place = net.get_submodule(path)
    hook = (
        place.register_forward_pre_hook(before, with_kwargs=True)
        if side == "input"
        else place.register_forward_hook(after, with_kwargs=True)
    )
    try:
        with torch.no_grad():
            net(**inputs)
    finally:
        hook.remove()
    return caught


def changed(a, b):
    """Which positions differ, as a list of (sample, token)."""
    a, b = (x if x.ndim == 3 else x[None] for x in (a, b))
    return [tuple(place) for place in (a != b).any(-1).nonzero().tolist()]


def ramps(size, low=0):
    """A picture whose red grows from left to right, green from top to bottom; blue is full."""
    y, x = np.indices(size)
    red, green = (x + 0.5) * (255 - low) / size[1] + low, (y + 0.5) * (255 - low) / size[0] + low
    return np.stack([red, green, np.full(size, 255.0)], axis=-1).round().astype(np.uint8)


def noise(size, seed):
    return np.random.default_rng(seed).integers(64, 192, (*size, 3), dtype=np.uint8)


def source_of(module, *names):
    """Functions and methods of an installed file that cannot be imported here (it wants torchvision), run as they stand."""
    import transformers

    path = Path(transformers.__file__).parent / "models" / module
    tree = ast.parse(path.read_text())
    wanted = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in wanted:
        node.decorator_list, node.returns = [], None
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None
    space = {"math": math, "torch": torch, "np": np}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), space)
    return [space[name] for name in names]


def region_of(table, place, size, patch, first):
    """A few pixels around the middle of a position's rectangle, and how far a change of them is felt (y, x); or None.

    Args:
        table: a table of positions.
        place: (sample, token).
        size: the picture's height and width.
        patch: side of the position in pixels of its canvas.
        first: longer side after a first resize, 0 without one.
    """
    low, high = np.array([[table[f"{axis}{end}"].values[place] for axis in "yx"] for end in (0, 1)])
    step = (high - low) / patch
    reach = step + 0.5 + (max(size) / first if first else 0)
    # two pixels or more: PIL's box filter drops a pixel whose centre lies on the line between two new ones
    start = np.round((low + high) / 2 - step / 2).astype(int)
    stop = np.maximum(start + 2, np.round((low + high) / 2 + step / 2).astype(int))
    if (start - reach < low).any() or (stop + reach > high).any() or (stop > size).any() or (start < 0).any():
        return None
    return start, stop


def touched(table, number, start, stop, size, patch, first, frame=None):
    """Positions that must feel a change of a region of a picture, and those that may."""
    low, high = (np.stack([table[f"{axis}{end}"].values for axis in "yx"], -1) for end in (0, 1))
    reach = (high - low) / patch + 0.5 + (max(size) / first if first else 0)
    own = (table["image"].values == number) & np.isfinite(low[..., 0])
    if frame is not None:
        own &= (table["frame"].values <= frame) & (frame < table["frame_end"].values)
    must = own & (low + reach <= start).all(-1) & (stop <= high - reach).all(-1)
    may = own & (low - reach < stop).all(-1) & (start < high + reach).all(-1)
    return ({tuple(p) for p in np.argwhere(flags).tolist()} for flags in (must, may))


def flipped(array, start, stop):
    """A copy of a picture [.., H, W, 3] with a region of it turned from dark to bright or back."""
    other = array.copy()
    part = other[..., start[0] : stop[0], start[1] : stop[1], :]
    part[...] = np.where(part < 128, 255, 1)
    return other


def video_inputs(case, name, films, text="ab{}c"):
    """What Qwen takes for videos (arrays [T, H, W, 3]), and the settings of their processor.

    Size and patches are cut by the library's own functions; the resize between them, which wants torchvision, is PIL's.
    """
    from PIL import Image

    third = importlib.import_module("transformers.models.qwen3_vl.video_processing_qwen3_vl")

    pixels = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48 * (8 if name == "qwen3-vl" else 1)}
    processor = third.Qwen3VLVideoProcessor(patch_size=4, size=pixels)
    settings = {**processor.to_dict(), "cap_pixels_per_frame": False}
    smart_resize, patchify = third.smart_resize, third.Qwen3VLVideoProcessor.patchify
    if name != "qwen3-vl":
        settings["video_processor_type"] = "Qwen2VLVideoProcessor"
        smart_resize, patchify = source_of(
            "qwen2_vl/video_processing_qwen2_vl.py", "smart_resize", "patchify"
        )
    values, grids = [], []
    for film in films:
        frames, height, width = film.shape[:3]
        more = {"num_frames": frames} if name == "qwen3-vl" else {}
        limits = {"min_pixels": pixels["shortest_edge"], "max_pixels": pixels["longest_edge"]}
        high, wide = smart_resize(height=height, width=width, factor=8, **limits, **more)
        shown = [np.array(Image.fromarray(frame).resize((wide, high), 4)) for frame in film]
        stacked = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)[None] / 255
        cut, *grid = patchify(processor, stacked, patch_size=4, merge_size=2, temporal_patch_size=2)
        values.append(cut[0])
        grids.append(grid)
    one = "<|vision_start|><|video_pad|><|vision_end|>"
    if name == "qwen3-vl":  # a stretch of its own for each pair of frames
        prompt = "".join(text.format("d".join([one] * grid[0])) for grid in grids)
        counts = [high * wide // 4 for time, high, wide in grids for _ in range(time)]
    else:
        prompt, counts = "".join(text.format(one) for _ in films), [math.prod(grid) // 4 for grid in grids]
    ids = spread(tokenizer()(prompt)["input_ids"], IDS["<|video_pad|>"], counts)
    inputs = {
        "pixel_values_videos": torch.cat(values),
        "video_grid_thw": torch.tensor(grids),
        **qwen_text([ids]),
    }
    return inputs, {"video_processor": settings}
