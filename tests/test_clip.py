"""Backbones of the CLIP family, on the shipped pocket and on tiny random checkpoints made on the spot."""

import importlib.util
import io
import json
import pickle
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import bitfuse as bf
from bitfuse.data.scenes import scene
from bitfuse.data.shapes import HELD_OUT_SEED, generate
from bitfuse.errors import DamagedFile, InputError, MissingDependency, MissingWeights, UnknownName
from bitfuse.features import Backbone, backbone, checkpoints
from bitfuse.features.clip import CLIPBackbone
from bitfuse.features.light import LightCLIP

POCKET = checkpoints.POCKET
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
TEXTS = [
    "a red star",
    "blue ring on white, a small dotted circle at the top",
    "x",
    "über 猫 & Zebra",
    "a red star " * 30,
]


def pictures():
    rng = np.random.default_rng(0)
    sizes = [(48, 48), (31, 77), (90, 40), (33, 3), (200, 199)]
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for w, h in sizes]


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    text = {**TINY, "vocab_size": 689, "max_position_embeddings": 20, "hidden_act": "gelu"}
    vision = {**TINY, "image_size": 32, "patch_size": 8, "hidden_act": "gelu"}
    ids = {"bos_token_id": 687, "eos_token_id": 688, "pad_token_id": 688}
    torch.manual_seed(1)
    config = transformers.CLIPConfig(text_config={**text, **ids}, vision_config=vision, projection_dim=24)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(POCKET).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    text = {**TINY, "vocab_size": 689, "max_position_embeddings": 16, "pad_token_id": 688}
    torch.manual_seed(2)
    config = transformers.SiglipConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 8})
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(POCKET).save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(params=["pocket", "tiny_clip", "tiny_siglip", "light pocket", "light tiny_clip"])
def encoder(request):
    light, _, name = request.param.rpartition(" ")
    path = "pocket" if name == "pocket" else str(request.getfixturevalue(name))
    return backbone(path, light=bool(light))


def copy_of(folder, target, **changes):
    """A checkpoint with some JSON fields or files changed: `config={"a": 1}` or `weights=bytes`."""
    shutil.copytree(folder, target)
    if "config" in changes:
        path = target / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes["config"]))
    if "weights" in changes:
        (target / "model.safetensors").write_bytes(changes["weights"])
    return target


# What a row is


@pytest.mark.parametrize("view", ["image", "text"])
def test_rows_depend_neither_on_order_nor_on_batches(encoder, view):
    inputs = pictures() if view == "image" else TEXTS
    rows = encoder.encode(view, inputs)
    assert rows.dtype == np.float32
    assert rows.shape == (5, encoder.width(view))
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(encoder.encode(view, inputs[::-1], batch_size=2)[::-1], rows, atol=2e-5)
    np.testing.assert_allclose(encoder.encode(view, inputs[1:2])[0], rows[1], atol=2e-5)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    assert encoder.encode(view, []).shape == (0, encoder.width(view))
    assert isinstance(encoder, Backbone)


def test_rows_are_the_projected_features_of_clip(tiny_clip):
    model = transformers.CLIPModel.from_pretrained(tiny_clip).eval()
    words = transformers.AutoTokenizer.from_pretrained(tiny_clip)
    pixels = transformers.CLIPImageProcessorPil.from_pretrained(tiny_clip)(pictures()[:1], return_tensors="pt")
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(**pixels).pooler_output)
        text = model.text_projection(model.text_model(**words(TEXTS[:1], return_tensors="pt")).pooler_output)
    encoder = CLIPBackbone(str(tiny_clip))
    np.testing.assert_allclose(encoder.encode("image", pictures()[:1]), image.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode("text", TEXTS[:1]), text.numpy(), atol=1e-5)


def test_siglip_sees_its_texts_padded_to_the_full_length(tiny_siglip):
    model = transformers.SiglipModel.from_pretrained(tiny_siglip).eval()
    ids = transformers.AutoTokenizer.from_pretrained(tiny_siglip)(TEXTS[0]).input_ids
    padded = torch.tensor([ids + [688] * (16 - len(ids))])
    with torch.no_grad():
        expected = model.text_model(input_ids=padded).pooler_output.numpy()
    np.testing.assert_allclose(CLIPBackbone(str(tiny_siglip)).encode("text", TEXTS[:1]), expected, atol=1e-5)


@pytest.mark.parametrize("end", [688, 2])
def test_the_light_one_is_the_twin_of_transformers(tiny_clip, tmp_path, end):
    text = json.loads((tiny_clip / "config.json").read_text())["text_config"]
    folder = copy_of(tiny_clip, tmp_path / "copy", config={"text_config": text | {"eos_token_id": end}})
    light, full = LightCLIP(str(folder)), CLIPBackbone(str(folder))
    assert light.runs()
    assert light.describe("text") == full.describe("text")
    np.testing.assert_allclose(light.encode("text", TEXTS), full.encode("text", TEXTS), atol=1e-5)
    np.testing.assert_allclose(light.encode("image", pictures()), full.encode("image", pictures()), atol=1e-5)


def test_the_light_one_is_taken_only_where_it_runs(tiny_clip, tiny_siglip, tmp_path):
    assert isinstance(backbone(str(tiny_clip), light=True), LightCLIP)
    assert isinstance(backbone(str(tiny_clip)), CLIPBackbone)
    assert isinstance(backbone(str(tiny_siglip), light=True), CLIPBackbone)
    vision = json.loads((tiny_clip / "config.json").read_text())["vision_config"]
    folder = copy_of(tiny_clip, tmp_path / "relu", config={"vision_config": vision | {"hidden_act": "relu"}})
    assert isinstance(backbone(str(folder), light=True), CLIPBackbone)


def test_a_text_of_ten_thousand_words_is_cut_quickly_and_in_silence(encoder, capfd):
    long = " ".join(["a large red star"] * 2500)
    encoder.encode("text", ["ready"])
    capfd.readouterr()
    started = time.perf_counter()
    rows = encoder.encode("text", [long, long + " and a blue ring"])
    assert time.perf_counter() - started < 5
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    assert capfd.readouterr() == ("", "")


# Pocket


def test_pocket_finds_the_captions_of_scenes_it_has_never_seen():
    items = {scene(HELD_OUT_SEED, i).caption: i for i in range(9000, 9200)}.values()
    samples = generate(200, seed=HELD_OUT_SEED, start=9000).take([i - 9000 for i in items])
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in samples.images]
    pocket = bf.backbone("pocket")
    image, text = (pocket.encode(*given) for given in (("image", images), ("text", samples.texts)))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    assert ((image @ text.T).argmax(axis=1) == np.arange(len(image))).mean() >= 0.75
    stars = text @ (lambda x: x / np.linalg.norm(x))(pocket.encode("text", ["red star"])[0])
    found = [samples.texts[i] for i in np.argsort(-stars)[:3]]
    assert all("red" in caption for caption in found)


def test_pocket_is_small_complete_and_modest():
    files = {file.name: file.stat().st_size for file in POCKET.iterdir()}
    assert sum(files.values()) < 8e6
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "README.md"} <= set(files)
    pocket = bf.backbone("pocket")
    assert pocket.width("image") == pocket.width("text") == 128
    assert "photographs" in pocket.note
    assert "not for photographs" in (POCKET / "README.md").read_text()
    assert "red star" in pocket.prompts


def test_a_query_needs_no_torch():
    code = (
        "import sys; from bitfuse.features import backbone; backbone('pocket', light=True).encode('text', ['star']);"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_encoding_leaves_random_numbers_alone(tiny_clip):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    CLIPBackbone(str(tiny_clip)).encode("text", TEXTS)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


# What a backbone is: its description


def test_a_description_changes_with_what_fixes_the_features(tiny_clip, tmp_path):
    facts = {view: dict(CLIPBackbone(str(tiny_clip)).describe(view)) for view in ("image", "text")}
    assert facts["image"]["width"] == 24
    assert facts["image"]["normalised"] is False
    assert facts["image"]["preprocessing"] != facts["text"]["preprocessing"]
    tensors = load_file(tiny_clip / "model.safetensors")
    tensors["logit_scale"] = tensors["logit_scale"] + 1
    other = copy_of(tiny_clip, tmp_path / "other")
    same = dict(CLIPBackbone(str(other)).describe("image"))
    assert {k for k in same if same[k] != facts["image"][k]} == {"backbone"}
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    (other / "preprocessor_config.json").write_text((other / "preprocessor_config.json").read_text() + "\n")
    changed = CLIPBackbone(str(other)).describe("image")
    assert {k for k in same if same[k] != changed[k]} == {"weights", "preprocessing"}
    assert CLIPBackbone(str(other)).describe("text")["preprocessing"] == facts["text"]["preprocessing"]


def test_a_directory_is_named_so_that_it_is_found_from_anywhere(tiny_clip, monkeypatch):
    monkeypatch.chdir(tiny_clip.parent)
    assert backbone(tiny_clip.name).name == backbone(tiny_clip.name).describe("text")["backbone"] == str(tiny_clip)


@pytest.mark.slow
def test_the_training_script_makes_a_checkpoint_with_a_card(tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "train_pocket.py"
    subprocess.run([sys.executable, script, "--steps", "2", "--out", tmp_path / "pocket"], check=True)
    assert {path.name for path in (tmp_path / "pocket").iterdir()} == {path.name for path in POCKET.iterdir()}
    assert "| image to text | 0.0" in (tmp_path / "pocket" / "README.md").read_text()
    assert (tmp_path / "pocket" / "tokenizer.json").read_bytes() == (POCKET / "tokenizer.json").read_bytes()
    rows = backbone(str(tmp_path / "pocket")).encode("text", ["a red star", "a blue ring"])
    assert rows.shape == (2, 128)


# What is not a backbone


def test_unknown_names_get_a_suggestion(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'pocket'"):
        backbone("pockt")
    with pytest.raises(UnknownName, match="a directory that exists"):
        backbone(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="belongs to a hub id"):
        backbone("pocket", revision="main")
    with pytest.raises(UnknownName, match="unknown view 'sound'"):
        backbone("pocket").encode("sound", [b""])


def test_without_network_and_weights_the_ways_on_are_named_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.perf_counter()
    with pytest.raises(MissingWeights, match=r"clip-vit-base-patch32.*--backbone DIRECTORY.*--backbone pocket"):
        backbone(checkpoints.DEFAULT)
    assert time.perf_counter() - started < 5


def test_an_unreachable_hub_is_asked_once_and_not_again(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def refuse(self, name, *, revision, timeout):
        asked.append((name, revision))
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(MissingWeights, match="Name or service not known"):
        backbone("somebody/model", revision="v2")
    assert asked == [("somebody/model", "v2")]


def test_a_hub_id_is_taken_from_the_cache_with_its_commit(monkeypatch, tmp_path, tiny_clip):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789" * 4
    shutil.copytree(tiny_clip, tmp_path / "models--somebody--model" / "snapshots" / commit)
    (tmp_path / "models--somebody--model" / "refs").mkdir()
    (tmp_path / "models--somebody--model" / "refs" / "main").write_text(commit)
    encoder = backbone("somebody/model")
    assert encoder.describe("text")["revision"] == commit
    assert encoder.describe("text")["backbone"] == "somebody/model"
    assert encoder.encode("text", ["x"]).shape == (1, 24)


def test_only_one_set_of_weights_is_downloaded():
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "tokenizer.json", "code.py"]
    assert checkpoints._wanted(files) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert checkpoints._wanted(["pytorch_model.bin", "vocab.json"]) == ["pytorch_model.bin", "vocab.json"]


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_is_named_with_the_extra(monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(MissingDependency, match=rf"backbone 'pocket' needs '{package}'.*bitfuse\[clip\]"):
        backbone("pocket")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_a_missing_file_is_named(tiny_clip, tmp_path, file):
    folder = copy_of(tiny_clip, tmp_path / "copy")
    (folder / file).unlink()
    with pytest.raises(DamagedFile, match=file):
        backbone(str(folder))


def damaged_weights(kind, folder):
    tensors = load_file(folder / "model.safetensors")
    name = "text_model.encoder.layers.1.mlp.fc1.weight"
    if kind == "truncated":
        return (folder / "model.safetensors").read_bytes()[:-100]
    if kind == "missing":
        del tensors[name]
    elif kind == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif kind == "nan":
        tensors[name] = tensors[name] * float("nan")
    save_file(tensors, folder / "damaged", metadata={"format": "pt"})
    return (folder / "damaged").read_bytes()


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("kind", ["truncated", "missing", "shape", "nan"])
def test_damaged_weights_are_refused(tiny_clip, tmp_path, kind, light):
    folder = copy_of(tiny_clip, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(damaged_weights(kind, folder))
    with pytest.raises(DamagedFile, match="fetch"):
        backbone(str(folder), light=light).encode("text", ["x"])


def test_pickled_weights_are_read_as_tensors_and_nothing_else(tiny_clip, tmp_path):
    folder = copy_of(tiny_clip, tmp_path / "copy")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    expected = backbone(str(folder)).encode("text", TEXTS)
    (folder / "model.safetensors").unlink()
    np.testing.assert_allclose(backbone(str(folder)).encode("text", TEXTS), expected, atol=1e-6)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Mischief(tmp_path / "ran"), protocol=2))
    with pytest.raises(DamagedFile, match="cannot be loaded"):
        backbone(str(folder)).encode("text", TEXTS)
    assert not (tmp_path / "ran").exists()


class Mischief:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_a_checkpoint_is_never_run(tiny_clip, tmp_path):
    folder = copy_of(tiny_clip, tmp_path / "copy", config={"auto_map": {"AutoModel": "mischief.Model"}})
    (folder / "mischief.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    assert backbone(str(folder)).encode("text", ["x"]).shape == (1, 24)
    assert not (tmp_path / "ran").exists()


def test_another_kind_of_model_is_refused(tiny_clip, tmp_path):
    folder = copy_of(tiny_clip, tmp_path / "copy")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="model of type 'bert'"):
        backbone(str(folder))


@pytest.mark.parametrize(
    ("view", "given", "message"),
    [
        ("text", ["a", " \n"], "text 1 is blank"),
        ("text", [b"bytes"], "text 0 is blank or no text"),
        ("image", [Image.new("L", (48, 48))], "image 0 is not an RGB picture"),
        ("image", ["cat.jpg"], "image 0 is not an RGB picture"),
    ],
)
def test_inputs_of_the_wrong_kind_are_refused(view, given, message):
    with pytest.raises(InputError, match=message):
        backbone("pocket").encode(view, given)


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="unknown device 'toaster'"):
        backbone("pocket", device="toaster").encode("text", ["x"])
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="not available on this machine"):
            backbone("pocket", device="cuda").encode("text", ["x"])
