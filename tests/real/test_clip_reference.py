"""OpenAI's CLIP as far as it reaches without its weights: token ids, pixel values, tensor names and shapes."""

import gzip
import json
import re

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from bitfuse.features import backbone
from bitfuse.features.pixels import pixel_values

TEXTS = {
    "a diagram": [49406, 320, 22697, 49407],
    "a dog": [49406, 320, 1929, 49407],
    "a cat": [49406, 320, 2368, 49407],
}
# The preprocessing that openai/clip-vit-base-patch32 has on the hub, in its old spelling.
PIXELS = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "resample": 3,
    "size": 224,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "clip-reference"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture(scope="module")
def clip_b32(reference, tmp_path_factory):
    """A checkpoint of CLIP's layout with its vocabulary and preprocessing; its few weights are random."""
    with gzip.open(reference / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    # The published order of the 256 byte letters: printable ones first, then the others, moved beyond 255.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == 49408
    folder = tmp_path_factory.mktemp("clip-b32")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    words = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    words.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # the wrong numbers that the hub's copy carries
    config = transformers.CLIPConfig(text_config={**small, **ids}, vision_config=small, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def published_pixels(image):
    """openai/CLIP's `_transform(224)` from its definition: resize, centre crop, to [0, 1], normalise; (3, 224, 224)."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    scaled = int(224 * long / short)
    new_width, new_height = (224, scaled) if width <= height else (scaled, 224)
    image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    top, left = round((new_height - 224) / 2), round((new_width - 224) / 2)
    image = image.crop((left, top, left + 224, top + 224)).convert("RGB")
    channels = np.asarray(image, np.float64).transpose(2, 0, 1) / 255
    return np.stack([(c - m) / s for c, m, s in zip(channels, PIXELS["image_mean"], PIXELS["image_std"])])


@pytest.mark.parametrize("light", [False, True])
def test_token_ids_are_those_of_clip(clip_b32, light):
    encoder = backbone(str(clip_b32), light=light)
    encoder.encode("text", ["a diagram"])
    for text, ids in TEXTS.items():
        found = encoder._tokenizer.encode(text)
        assert list(found.ids if light else found) == ids
    cut = encoder._tokenizer.encode("a cat " * 100, **({} if light else {"truncation": True, "max_length": 77}))
    assert len(cut.ids if light else cut) == 77


@pytest.mark.parametrize("light", [False, True])
def test_pixel_values_are_those_of_the_published_preprocessing(reference, clip_b32, light):
    image = Image.open(reference / "CLIP.png").convert("RGB")
    encoder = backbone(str(clip_b32), light=light)
    encoder.encode("image", [image])

    def pixels_of(picture):
        if light:
            return pixel_values([picture], encoder._pixels)[0]
        return encoder._pixels([picture])["pixel_values"][0].numpy()

    pixels, expected = pixels_of(image), published_pixels(image)
    assert pixels.shape == expected.shape == (3, 224, 224)
    # Of the 411 columns too many, transformers cuts 205 on the left and OpenAI's own code 206: one column beside.
    np.testing.assert_allclose(pixels[:, :, 1:], expected[:, :, :-1], atol=1e-5)
    square = image.crop((700, 0, 700 + image.height, image.height))
    np.testing.assert_allclose(pixels_of(square), published_pixels(square), atol=1e-5)


def test_an_old_checkpoint_is_run_by_both_ways_alike(reference, clip_b32):
    image = Image.open(reference / "CLIP.png").convert("RGB")
    for view, inputs in (("image", [image]), ("text", list(TEXTS))):
        quick, full = (backbone(str(clip_b32), light=light).encode(view, inputs) for light in (True, False))
        np.testing.assert_allclose(quick, full, atol=1e-5)


LAYER = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
OUTER = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    **{f"visual.ln_pre.{part}": f"vision_model.pre_layrnorm.{part}" for part in ("weight", "bias")},
    **{f"visual.ln_post.{part}": f"vision_model.post_layernorm.{part}" for part in ("weight", "bias")},
    **{f"ln_final.{part}": f"text_model.final_layer_norm.{part}" for part in ("weight", "bias")},
}
TRANSPOSED = {"text_projection", "visual.proj"}


def renamed(name, shape):
    """OpenAI's tensor under the names of transformers: a list of (name, shape)."""
    if name in OUTER:
        return [(OUTER[name], shape[::-1] if name in TRANSPOSED else shape)]
    visual, number, rest = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name).groups()
    layer = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}"
    if rest.startswith("attn.in_proj_"):  # three matrices in one
        part = rest.removeprefix("attn.in_proj_")
        return [(f"{layer}.self_attn.{which}_proj.{part}", (shape[0] // 3, *shape[1:])) for which in "qkv"]
    if rest.startswith("attn.out_proj."):
        return [(f"{layer}.self_attn.out_proj.{rest.removeprefix('attn.out_proj.')}", shape)]
    inner, _, part = rest.rpartition(".")
    return [(f"{layer}.{LAYER[inner]}.{part}", shape)]


def test_tensor_names_and_shapes_are_those_of_vit_b_32(reference):
    listed = json.loads((reference / "ViT-B-32.json").read_text())
    settings = {"input_resolution", "context_length", "vocab_size"}
    tensors = {k: tuple(v["shape"]) for k, v in listed.items() if "shape" in v and k not in settings}
    published = dict(pair for name, shape in tensors.items() for pair in renamed(name, shape))
    with torch.device("meta"):
        model = transformers.CLIPModel(transformers.CLIPConfig())
    assert published == {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    heads = {name.split(".")[0]: entry["value"] for name, entry in listed.items() if name.endswith("attn.num_heads")}
    assert heads == {
        "visual": model.config.vision_config.num_attention_heads,
        "transformer": model.config.text_config.num_attention_heads,
    }


def test_the_golden_features_rank_the_diagram_first(reference):
    image, texts = (np.load(reference / f"{view}_features.npy") for view in ("image", "text"))
    image, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, texts))
    odds = np.exp(100 * image @ texts.T)[0]
    np.testing.assert_allclose(odds / odds.sum(), [0.9927936, 0.0042107, 0.0029958], atol=1e-5)
