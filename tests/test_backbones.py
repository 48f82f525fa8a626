"""Backbones beside the CLIP family, on tiny random checkpoints made on the spot, and the readers of their inputs."""

import io
import math
import wave

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from bitfuse.data.shapes_sound import sound
from bitfuse.errors import DamagedFile, InputError, UnknownFormat, UnknownName
from bitfuse.features import Backbone, backbone
from bitfuse.features.bow import Vocabulary
from bitfuse.features.checkpoints import POCKET
from bitfuse.features.moving import open_frames, spread
from bitfuse.features.sounds import Sound, open_sound
from bitfuse.features.vgg_bow import PARAMETERS, VGGBow, network

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
TEXTS = ["a red star", "blue ring on white, a small dotted circle at the top", "x", "a red star " * 30]
SIDE = {"shortest_edge": 32}, {"height": 32, "width": 32}


def pictures(n=5):
    rng = np.random.default_rng(0)
    sizes = [(48, 48), (31, 77), (90, 40), (33, 30), (200, 199)]
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for w, h in sizes[:n]]


def films():
    rng = np.random.default_rng(1)
    return [
        [Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)) for _ in range(length)]
        for length in (1, 3, 4, 11)
    ]


def sounds():
    rng = np.random.default_rng(2)
    lengths = [(8000, 4000), (44_100, 30_000), (16_000, 100), (16_000, 16_000)]
    return [Sound(rate, rng.uniform(-1, 1, n).astype(np.float32)) for rate, n in lengths]


@pytest.fixture(scope="module")
def dual(tmp_path_factory):
    """A ViT with a pooling layer and a BERT as a checkpoint of masked words has it: without one."""
    image, text = tmp_path_factory.mktemp("vit"), tmp_path_factory.mktemp("bert")
    torch.manual_seed(3)
    transformers.ViTModel(transformers.ViTConfig(**TINY, image_size=32, patch_size=8)).save_pretrained(image)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(image)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for t in TEXTS for w in t.split()})]
    (text / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizer.from_pretrained(text).save_pretrained(text)
    config = transformers.BertConfig(**{**TINY, "hidden_size": 48}, vocab_size=len(words), max_position_embeddings=24)
    transformers.BertForMaskedLM(config).save_pretrained(text)
    return f"dual:{image}+{text}"


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    audio = {"spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 16, "depths": [1, 1], "hidden_size": 32}
    audio |= {"num_attention_heads": [2, 2], "window_size": 4, "patch_size": 4, "patch_stride": [4, 4]}
    text = {**TINY, "vocab_size": 50, "max_position_embeddings": 20}
    torch.manual_seed(4)
    model = transformers.ClapModel(transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=20))
    model.save_pretrained(folder)
    features = transformers.ClapFeatureExtractor(feature_size=16, max_length_s=2, truncation="rand_trunc")
    features.save_pretrained(folder)
    return f"audio:{folder}"


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wav2vec2")
    layers = {"conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2}
    torch.manual_seed(5)
    config = transformers.Wav2Vec2Config(
        **TINY, **layers, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, vocab_size=10
    )
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return f"audio:{folder}"


@pytest.fixture(scope="module")
def videomae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videomae")
    torch.manual_seed(6)
    config = transformers.VideoMAEConfig(**TINY, image_size=32, patch_size=16, num_frames=4)
    transformers.VideoMAEModel(config).save_pretrained(folder)
    transformers.VideoMAEImageProcessorPil(size=SIDE[0], crop_size=SIDE[1]).save_pretrained(folder)
    return f"video:{folder}"


@pytest.fixture(scope="module")
def xclip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xclip")
    mit = {"mit_hidden_size": 24, "mit_intermediate_size": 32, "mit_num_attention_heads": 2, "mit_num_hidden_layers": 1}
    vision = {**TINY, **mit, "image_size": 32, "patch_size": 16, "num_frames": 4}
    text = {**TINY, "vocab_size": 50, "max_position_embeddings": 20, "eos_token_id": 3}
    torch.manual_seed(7)
    config = transformers.XCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=24, prompt_num_attention_heads=2
    )
    transformers.XCLIPModel(config).save_pretrained(folder)
    transformers.VideoMAEImageProcessorPil(size=SIDE[0], crop_size=SIDE[1]).save_pretrained(folder)
    return f"video:{folder}"


def vgg_file(path, *, channels=1, hidden=16, timm=False, **changes):
    """A narrow VGG-16 with random weights, in a file as torchvision or timm would write it."""
    torch.manual_seed(8)
    model = network(channels, hidden, 10).to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tensors = {**{k: v.contiguous() for k, v in model.state_dict().items()}, **changes}
    if timm:
        names = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2.", "classifier.6.": "head.fc."}
        for ours, theirs in names.items():
            for kind in ("weight", "bias"):
                x = tensors.pop(ours + kind)
                side = {"classifier.0.": 7, "classifier.3.": 1}.get(ours)
                tensors[theirs + kind] = x.reshape(len(x), -1, side, side) if side and kind == "weight" else x
    save_file(tensors, path)
    return model.eval()


@pytest.fixture(params=["dual", "clap", "wav2vec2", "videomae", "xclip", "audio:pocket", "video:pocket"])
def encoder(request):
    name = request.param if ":" in request.param else request.getfixturevalue(request.param)
    return backbone(name)


INPUTS = {"image": pictures, "text": lambda: TEXTS, "sound": sounds, "frames": films}


# What a row is


def test_rows_depend_neither_on_order_nor_on_batches(encoder):
    assert isinstance(encoder, Backbone)
    for view in encoder.views:
        inputs = INPUTS[view]()
        rows = encoder.encode(view, inputs)
        assert rows.dtype == np.float32
        assert rows.shape == (len(inputs), encoder.width(view))
        np.testing.assert_allclose(encoder.encode(view, inputs[::-1], batch_size=2)[::-1], rows, atol=2e-5)
        np.testing.assert_allclose(encoder.encode(view, inputs[1:2])[0], rows[1], atol=2e-5)
        assert np.abs(rows[0] - rows[1]).max() > 1e-4
        assert encoder.encode(view, []).shape == (0, encoder.width(view))
        facts = encoder.describe(view)
        assert facts["width"] == encoder.width(view)
        assert facts["backbone"] == encoder.name
        assert backbone(encoder.name).describe(view) == facts


def test_inputs_of_another_kind_are_refused(encoder):
    for view in encoder.views:
        with pytest.raises(InputError, match=r"open|blank"):
            encoder.encode(view, [*INPUTS[view]()[:1], 3.5])
    with pytest.raises(UnknownName, match="view"):
        encoder.encode("smell", [])


def test_dual_rows_are_the_cls_rows_of_both_models(dual):
    image, text = dual.removeprefix("dual:").split("+")
    encoder = backbone(dual)
    assert not encoder.aligned
    assert (encoder.width("image"), encoder.width("text")) == (32, 48)
    vit, bert = transformers.ViTModel.from_pretrained(image), transformers.BertForMaskedLM.from_pretrained(text).bert
    pixels = transformers.ViTImageProcessorPil.from_pretrained(image)(pictures(2), return_tensors="pt")
    words = transformers.AutoTokenizer.from_pretrained(text)(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        expected = vit.eval()(**pixels).last_hidden_state[:, 0], bert.eval()(**words).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.encode("image", pictures(2)), expected[0], atol=1e-5)
    np.testing.assert_allclose(encoder.encode("text", TEXTS[:1]), expected[1], atol=1e-5)


def test_what_dual_cannot_take_is_refused(dual, tmp_path):
    image, text = dual.removeprefix("dual:").split("+")
    for bad in ("dual:only", "dual:a+b+c", f"dual:{image}+"):
        with pytest.raises(InputError, match="image model"):
            backbone(bad)
    with pytest.raises(InputError, match="revision"):
        backbone(dual, revision="main")
    with pytest.raises(DamagedFile, match="preprocessor_config"):
        backbone(f"dual:{text}+{text}")
    with pytest.raises(InputError, match=r"\[CLS\]"):
        backbone(f"dual:{image}+{gpt(tmp_path)}").encode("text", ["a"])


def gpt(folder):
    """A model of texts without a [CLS] token."""
    config = transformers.GPTNeoXConfig(**TINY, vocab_size=689, bos_token_id=687, eos_token_id=688)
    transformers.GPTNeoXModel(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(POCKET).save_pretrained(folder)
    return folder


# VGG-16 and a bag of words


def test_vgg_has_the_tensors_of_the_published_file():
    shapes = {name: tuple(x.shape) for name, x in network().state_dict().items()}
    assert sum(math.prod(shape) for shape in shapes.values()) == PARAMETERS == 138_357_544
    numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # of torchvision's convolutions
    names = [f"features.{i}.{kind}" for i in numbers for kind in ("weight", "bias")]
    assert list(shapes) == names + [f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")]
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    assert shapes["features.28.weight"] == (512, 512, 3, 3)
    assert shapes["classifier.0.weight"] == (4096, 25_088)
    assert shapes["classifier.6.bias"] == (1000,)


@pytest.mark.parametrize("timm", [False, True])
def test_vgg_rows_are_fc7_after_its_relu(tmp_path, timm):
    model = vgg_file(tmp_path / "vgg.safetensors", timm=timm)
    encoder = VGGBow(tmp_path / "vgg.safetensors", channels=1, hidden=16)
    rows = encoder.encode("image", pictures(2))
    # 48 x 48 and 31 x 77 pixels: to 256 on the shorter side, then the middle
    x = []
    for picture, size in zip(pictures(2), [(256, 256), (256, 636)]):
        scaled = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float64)
        top, left = (size[1] - 224) // 2, (size[0] - 224) // 2
        middle = scaled[top : top + 224, left : left + 224] / 255
        x.append(((middle - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1))
    with torch.no_grad():
        h = torch.tensor(np.stack(x), dtype=torch.float32)
        for i, layer in enumerate(model["features"]):
            h = torch.relu(h) if isinstance(layer, torch.nn.ReLU) else layer(h)
            assert i < 31
        assert h.shape == (2, 8, 7, 7)
        linear = model["classifier"]
        expected = torch.relu(linear[3](torch.relu(linear[0](h.flatten(1))))).numpy()
    assert rows.shape == (2, 16)
    assert (rows > 0).any()
    np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-4)


def test_a_file_that_is_not_vgg_16_is_named_with_its_shape(tmp_path):
    file = tmp_path / "vgg.safetensors"
    vgg_file(file, **{"features.5.weight": torch.zeros(2, 2, 3, 3)})
    with pytest.raises(DamagedFile, match=r"features\.5\.weight .* \(2, 1, 3, 3\), the file has \(2, 2, 3, 3\)"):
        VGGBow(file, channels=1, hidden=16).encode("image", pictures(1))
    with pytest.raises(DamagedFile, match=r"classifier\.0\.weight|features\.0\.weight"):
        backbone(f"vgg:{file}").encode("image", pictures(1))  # the published sizes are expected
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(DamagedFile, match=r"features\.0\.weight .* has nothing"):
        VGGBow(file, channels=1, hidden=16).encode("image", pictures(1))
    file.write_bytes(b"nothing")
    with pytest.raises(DamagedFile, match="not a safetensors file"):
        VGGBow(file, channels=1, hidden=16).encode("image", pictures(1))
    with pytest.raises(DamagedFile, match="no file"):
        backbone(f"vgg:{tmp_path}/none")


def test_a_vocabulary_keeps_what_occurs_often_enough(tmp_path):
    words = Vocabulary.learn(["Red star, red", "red ring", None, "a star"], min_count=2)
    assert words.words == ("red", "star")  # twice in one text counts once
    np.testing.assert_array_equal(words.bags(["red red ring", "STAR red", "blue"]), [[1, 0], [1, 1], [0, 0]])
    words.save(tmp_path / "words.json")
    assert Vocabulary.load(tmp_path / "words.json") == words
    vgg_file(tmp_path / "vgg.safetensors")
    encoder = backbone(f"vgg:{tmp_path}/vgg.safetensors+{tmp_path}/words.json")
    assert encoder.views == ("image", "text")
    np.testing.assert_array_equal(encoder.encode("text", ["a star"]), [[0, 1]])
    other = Vocabulary(("red", "stars")).fingerprint
    assert other != words.fingerprint
    assert words.fingerprint in encoder.describe("text")["preprocessing"]
    with pytest.raises(InputError, match="min_count"):
        Vocabulary.learn(["a"], min_count=2)
    (tmp_path / "words.json").write_text('{"format": 9, "words": []}')
    with pytest.raises(UnknownFormat, match="format 9"):
        Vocabulary.load(tmp_path / "words.json")
    with pytest.raises(DamagedFile, match="Vocabulary"):
        Vocabulary.load(tmp_path / "none.json")


# Sounds


def wav(samples, rate=8000, channels=1, width=2):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples).tobytes())
    return out.getvalue()


def test_a_sound_is_the_mean_of_its_channels(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(np.array([[1000, 3000], [-32768, -32768]], "<i2"), channels=2))
    opened = open_sound(tmp_path / "a.wav")
    np.testing.assert_allclose(opened.samples, [2000 / 32768, -1])
    assert opened.rate == 8000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"ID3 no wave at all, but long enough", "not a WAV"),
        (wav(np.zeros(10, np.uint8), width=1), "8 bits"),
        (wav(np.zeros(10, "<i2"), rate=10), "10 Hz"),
        (wav(np.zeros(0, "<i2")), "truncated"),
        (wav(np.zeros(100, "<i2"))[:-50], "truncated"),
        (wav(np.zeros(8000 * 3, "<i2")), "limit of 2"),
    ],
)
def test_what_is_no_sound_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        open_sound(data, max_seconds=2)


def test_clap_reads_the_beginning_of_a_long_sound_whatever_is_drawn(clap):
    encoder = backbone(clap)
    rng = np.random.default_rng(0)
    long = Sound(48_000, rng.uniform(-1, 1, 48_000 * 5).astype(np.float32))
    rows = encoder.encode("sound", [long, long.first(2.0)])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert encoder.describe("sound")["normalised"]


def test_wav2vec2_rows_are_means_over_time(wav2vec2):
    folder = wav2vec2.removeprefix("audio:")
    model = transformers.Wav2Vec2Model.from_pretrained(folder).eval()
    given = Sound(16_000, np.sin(np.arange(4000) / 5).astype(np.float32))
    x = (given.samples - given.samples.mean()) / np.sqrt(given.samples.var() + 1e-7)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)[None]).last_hidden_state.mean(dim=1)
    np.testing.assert_allclose(backbone(wav2vec2).encode("sound", [given]), expected, atol=1e-4)


def test_the_pocket_encoder_of_sounds_tells_pitches_apart():
    time = np.arange(8000) / 8000
    tones = [Sound(8000, (0.3 * np.sin(2 * np.pi * f * time)).astype(np.float32)) for f in (440, 466, 880)]
    rows = backbone("audio:pocket").encode("sound", tones)
    assert len(set(rows[:, :64].argmax(axis=1))) == 3
    faster = Sound(16_000, (0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32))
    again = backbone("audio:pocket").encode("sound", [faster, open_sound(sound(0, 0))])
    assert again[0, :64].argmax() == rows[0, :64].argmax()


def test_models_of_other_kinds_are_refused(dual, videomae):
    image = dual.removeprefix("dual:").split("+")[0]
    with pytest.raises(InputError, match=r"'vit'; sounds are read by clap"):
        backbone(f"audio:{image}")
    with pytest.raises(InputError, match="revision"):
        backbone("audio:pocket", revision="main")
    with pytest.raises(DamagedFile, match=r"tokenizer\.json"):
        backbone(f"video:{image}")  # no film model, so it must be a CLIP
    with pytest.raises(UnknownName, match="backbone"):
        backbone("video:nothing")


# Moving pictures


def test_video_pocket_is_the_mean_of_the_pocket_over_frames():
    images, video = backbone("pocket"), backbone("video:pocket")
    film = films()[1]
    np.testing.assert_allclose(video.encode("frames", [film])[0], images.encode("image", film).mean(axis=0), atol=1e-5)
    assert video.describe("frames")["weights"] == images.describe("image")["weights"]
    assert video.describe("frames") != images.describe("image")


def test_videomae_reads_as_many_frames_as_it_was_trained_with(videomae):
    model = transformers.VideoMAEModel.from_pretrained(videomae.removeprefix("video:")).eval()
    processor = transformers.VideoMAEImageProcessorPil(size=SIDE[0], crop_size=SIDE[1])
    film = films()[3]
    with torch.no_grad():
        chosen = processor([[film[i] for i in (1, 4, 6, 9)]], return_tensors="pt")
        expected = model(**chosen).last_hidden_state.mean(dim=1)
    np.testing.assert_allclose(backbone(videomae).encode("frames", [film]), expected, atol=1e-5)


def test_frames_are_spread_over_the_whole():
    assert spread(11, 4) == [1, 4, 6, 9]
    assert spread(4, 4) == [0, 1, 2, 3]
    assert spread(1, 3) == [0, 0, 0]
    assert spread(2, 4) == [0, 0, 1, 1]


@pytest.mark.parametrize("kind", ["folder", "GIF", "WEBP", "PNG"])
def test_frames_come_from_a_folder_or_an_animation(tmp_path, kind):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
    pages = [Image.new("RGB", (20, 10), colour) for colour in colours]
    if kind == "folder":
        source = tmp_path / "film"
        source.mkdir()
        for i, page in enumerate(pages):
            page.save(source / f"{i:03d}.png")
        (source / "notes.txt").write_text("no picture")
    else:
        source = tmp_path / f"film.{kind.lower()}"
        options = {"lossless": True} if kind == "WEBP" else {}
        pages[0].save(source, kind, save_all=True, append_images=pages[1:], duration=100, **options)
    opened = open_frames(source)
    assert [frame.mode for frame in opened] == ["RGB"] * 4
    for frame, colour in zip(opened, colours):
        assert np.abs(np.asarray(frame, int)[5, 5] - colour).max() < 4
    few = open_frames(source, 2)
    assert [np.asarray(frame)[5, 5].argmax() for frame in few] == [1, 0]
    assert len(open_frames(source, 6)) == 6


def test_a_still_picture_is_one_frame_and_other_things_are_none(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert len(open_frames(tmp_path / "a.png")) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="0 frames"):
        open_frames(tmp_path / "empty")
    with pytest.raises(InputError, match=r"film|video"):
        open_frames(b"\0\0\0\x20ftypisom" + bytes(50))
    with pytest.raises(InputError, match="at least 1"):
        open_frames(tmp_path / "a.png", 0)
    wide = [Image.new("P", (6000, 6000), i) for i in range(2)]
    wide[0].save(tmp_path / "wide.gif", save_all=True, append_images=wide[1:])
    with pytest.raises(InputError, match="take fewer"):
        open_frames(tmp_path / "wide.gif")
