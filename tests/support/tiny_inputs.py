"""Random inputs that fit each tiny model: tokens with their placeholders, pictures, grids, sound, encoder states."""

import torch
from tiny_families import END, FAMILIES, IMAGE, START, VIDEO

#: Plain words; the special tokens lie outside.
WORDS = (3, 50)


def inputs_for(name, *, padded=None, seed=0, lengths=(11, 7), grids=((1, 4, 6), (1, 6, 4)), video=None):
    """Keyword arguments of the forward of `tiny(name)`, for two samples.

    Args:
        name: of `tiny_models.MODELS` or `tiny_families.FAMILIES`.
        padded: "right" or "left": the samples differ in length and are padded on that side; None: equally long.
        seed: of the random numbers.
        lengths: words per sample (targets of an encoder-decoder have 3 and 4 fewer); without padding the first counts for both.
        grids: (t, h, w) in patches of the picture of each sample (Qwen-VL).
        video: (t, h, w) of a video in the first sample (Qwen-VL), or None.
    """
    import tiny_models

    generator = torch.Generator().manual_seed(seed)
    kind = tiny_models.kind(name)
    counts = list(lengths) if padded else [lengths[0]] * len(lengths)
    made = _Maker(generator, padded or "right", counts, padded is not None)
    if kind == "qwen-vl":
        return made.qwen(name, list(grids), video)
    return getattr(made, kind.replace("-", "_"))(name)


def tiles_of(height, width, pinpoints=((24, 48), (48, 24), (48, 48)), side=24, patch=8):
    """Tiles (the small picture among them) and placeholders of a LLaVA-Next picture, by its authors' rule."""
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    best = select_best_resolution((height, width), [list(p) for p in pinpoints])
    rows, columns = best[0] // side, best[1] // side
    n = side // patch
    kept = unpad_image(torch.zeros(1, rows * n, columns * n), (height, width))
    return rows * columns + 1, n * n + kept.shape[1] * (kept.shape[2] + 1)


class _Maker:
    def __init__(self, generator, side, counts, masked):
        self.generator, self.side, self.counts, self.masked = generator, side, counts, masked

    def noise(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def words(self, n):
        return torch.randint(*WORDS, (n,), generator=self.generator).tolist()

    def batched(self, rows):
        """Rows of ids as a padded batch, with its mask if there is padding (or is to be)."""
        length = max(map(len, rows))
        ids, mask = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(2))
        for row, sample in enumerate(rows):
            place = slice(0, len(sample)) if self.side == "right" else slice(length - len(sample), length)
            ids[row, place], mask[row, place] = torch.tensor(sample), 1
        return {"input_ids": ids, "attention_mask": mask}

    def text(self, name=None):
        return self.batched([self.words(n) for n in self.counts])

    decoder = text

    def encoder_decoder(self, name):
        given = self.text()
        targets = self.batched([self.words(n - 3 - i) for i, n in enumerate(self.counts)] if self.masked
                               else [self.words(n - 3) for n in self.counts])  # fmt: skip
        given["decoder_input_ids"] = targets["input_ids"]
        if self.masked:
            given["decoder_attention_mask"] = targets["attention_mask"]
        return given

    def cross_decoder(self, name):
        given = self.text()
        states = self.noise(len(self.counts), 6, 32)
        mask = torch.ones(len(self.counts), 6, dtype=torch.long)
        if self.masked:
            mask[1, 4:] = 0
        return {**given, "encoder_hidden_states": states, "encoder_attention_mask": mask}

    def speech(self, name):
        targets = self.batched([self.words(n) for n in self.counts])
        given = {
            "input_features": self.noise(len(self.counts), 8, 40),
            "decoder_input_ids": targets["input_ids"],
        }
        return given | ({"decoder_attention_mask": targets["attention_mask"]} if self.masked else {})

    def vision(self, name):
        size = FAMILIES[name][2]["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": self.noise(len(self.counts), 3, height, width)}

    def dual(self, name):
        given = self.text()
        return {**given, "pixel_values": self.noise(len(self.counts), 3, 24, 24)}

    def pictured(self, tokens):
        """One row per sample: words, the placeholders of its picture, words."""
        longest = max(map(len, tokens))
        rows = []
        for n, row in zip(self.counts, tokens, strict=True):
            words = self.words(n if self.masked else n + longest - len(row))
            rows.append([*words[:3], *row, *words[3:]])
        return self.batched(rows)

    def llava(self, name):
        return {**self.pictured([[IMAGE] * 9] * 2), "pixel_values": self.noise(2, 3, 24, 24)}

    def llava_next(self, name):
        sizes = [(20, 40), (45, 30)]
        tiles = [tiles_of(*size) for size in sizes]
        pixels = torch.zeros(2, max(n for n, _ in tiles), 3, 24, 24)
        for row, (n, _) in enumerate(tiles):
            pixels[row, :n] = self.noise(n, 3, 24, 24)
        given = self.pictured([[IMAGE] * n for _, n in tiles])
        return {**given, "pixel_values": pixels, "image_sizes": torch.tensor(sizes)}

    def idefics3(self, name):
        # Tiles of 4×4 patches, merged 2×2: 4 tokens each; the second sample has one tile only.
        pixels = self.noise(2, 3, 3, 32, 32)
        pixels[1, 1:] = 0
        seen = torch.ones(2, 3, 32, 32, dtype=torch.long)
        seen[0, 2, :, 24:] = 0
        given = self.pictured([[START, *[IMAGE] * 4] * 3, [START, *[IMAGE] * 4]])
        return {**given, "pixel_values": pixels, "pixel_attention_mask": seen}

    def paligemma(self, name):
        # The picture and the words of the prefix see each other; the rest is causal (token type 1 is given only for training).
        rows = [[IMAGE] * 9 + self.words(n) for n in self.counts]
        given = {**self.batched(rows), "pixel_values": self.noise(2, 3, 24, 24)}
        given["token_type_ids"] = torch.zeros_like(given["input_ids"])
        given["token_type_ids"][:, -3:] = 1
        return given

    def gemma3(self, name):
        given = self.pictured(
            [[START, *[IMAGE] * 4, END], [START, *[IMAGE] * 4, END, 4, START, *[IMAGE] * 4, END]]
        )
        kinds = (given["input_ids"] == IMAGE).long()
        return {**given, "pixel_values": self.noise(3, 3, 32, 32), "token_type_ids": kinds}

    def qwen(self, name, grids, video):
        rows = []
        for row, (t, h, w) in enumerate(grids):
            shown = [START, *[IMAGE] * (t * h * w // 4), END]
            if video is not None and row == 0:
                frame = [START, *[VIDEO] * (video[1] * video[2] // 4), END]
                whole = [START, *[VIDEO] * (video[0] * video[1] * video[2] // 4), END]
                shown += frame * video[0] if name == "qwen3-vl" else whole
            rows.append(shown)
        given = self.pictured(rows)
        kinds = (given["input_ids"] == IMAGE).int() + 2 * (given["input_ids"] == VIDEO).int()
        patches = sum(t * h * w for t, h, w in grids)
        given |= {
            "mm_token_type_ids": kinds,
            "pixel_values": self.noise(patches, 3 * 2 * 4 * 4),
            "image_grid_thw": torch.tensor(grids),
        }
        if video is not None:
            given["pixel_values_videos"] = self.noise(video[0] * video[1] * video[2], 3 * 2 * 4 * 4)
            given["video_grid_thw"] = torch.tensor([video])
        return given
