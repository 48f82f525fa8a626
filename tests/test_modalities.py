"""Sounds and frames of the generated world, the data set of up to four views, and the ablations about features."""

import io

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.bench.ablations import ablation
from bitfuse.bench.ablations.backbones import CONTROL, PixelsAndWords
from bitfuse.bench.ablations.tuning import BEFORE
from bitfuse.data.scenes import COLOURS, Scene, Thing, render, scene
from bitfuse.data.shapes_frames import FRAMES, frames
from bitfuse.data.shapes_sound import NOTE_SECONDS, RATE, sound
from bitfuse.errors import InputError, MissingWeights, UnknownName
from bitfuse.features.sounds import open_sound

VIEWS = ("image", "text", "sound", "frames")
SMALL = {"n_train": 96, "n_query": 24, "n_gallery": 96}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def world(cache):
    return bf.dataset("shapes", **SMALL, views=VIEWS, cache=cache)


def test_a_sound_plays_the_colours_of_its_objects_in_order():
    """Over many scenes: where an object sounds, the power at its own pitch is above that at the other pitches."""
    pitches = 523.25 * 2 ** (np.arange(12) / 12)
    found = {True: [], False: []}
    silent, playing = [], []
    for item in range(150):
        x = open_sound(sound(3, item)).samples
        assert len(x) == 4 * int(RATE * NOTE_SECONDS)
        for i, note in enumerate(x.reshape(4, -1)):
            time = np.arange(len(note)) / RATE
            power = np.abs(np.exp(-2j * np.pi * pitches[:, None] * time) @ (note * np.exp(-6 * time)))
            things = scene(3, item).things
            (playing if i < len(things) and things[i].large else silent).append(power.max())
            if i < len(things):
                nearest = np.abs(power.argmax() - list(COLOURS).index(things[i].colour)) <= 1
                found[things[i].large].append(nearest)
    assert np.mean(found[True]) > 0.75
    assert 0.3 < np.mean(found[False]) < np.mean(found[True])  # small objects are faint
    assert np.mean(playing) > 1.5 * np.mean(silent)


def test_objects_move_slowly_where_they_are_large():
    large = Thing("circle", "red", "plain", True, 4)
    still = render(Scene((large,), "white", 0, 20, 1.0))
    moved = render(Scene((large,), "white", 0, 20, 1.0), shifts=[(1.0, 0.0)])
    right = render(Scene((Thing("circle", "red", "plain", True, 5),), "white", 0, 20, 1.0))
    np.testing.assert_array_equal(np.asarray(moved), np.asarray(right))
    assert np.abs(np.asarray(moved, int) - np.asarray(still, int)).max() > 100
    with pytest.raises(ValueError, match="zip"):
        render(Scene((large,), "white", 0, 20, 1.0), shifts=[(0.0, 0.0)] * 2)


def centre_of(picture, background):
    away = np.abs(np.asarray(picture, float) - background).sum(axis=2)
    weight = np.where(away > 200, away, 0)  # above the noise
    rows, columns = np.indices(weight.shape)
    return np.array([(rows * weight).sum(), (columns * weight).sum()]) / weight.sum()


def test_frames_show_the_scene_moving_through_its_place():
    item = next(i for i in range(500) if len(scene(0, i).things) == 1 and scene(0, i).things[0].cell == 4
                and scene(0, i).things[0].colour == "blue" and scene(0, i).background == "white")  # fmt: skip
    made = frames(0, item)
    assert len(made) == FRAMES
    assert {(frame.mode, frame.size) for frame in made} == {("RGB", (48, 48))}
    centres = np.array([centre_of(frame, 255.0) for frame in made])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert np.all((steps > 0.7) & (steps < 2.6))  # a tenth of a cell is 1.6 pixels
    np.testing.assert_allclose(centres.mean(axis=0), centre_of(render(scene(0, item)), 255.0), atol=0.7)


def test_sound_and_frames_are_the_same_at_every_call_and_differ_between_scenes():
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the state itself is the subject
    assert sound(4, 7) == sound(4, 7) != sound(5, 7)
    one, two = frames(4, 7), frames(4, 7)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two))
    assert one[0].tobytes() != frames(4, 8)[0].tobytes()
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert io.BytesIO(sound(4, 7)).read(4) == b"RIFF"


def test_the_data_set_has_the_views_asked_for_in_their_order(world, cache):
    for part in (world.train, world.query, world.gallery):
        assert tuple(part.views) == VIEWS
        assert all(x.shape == (len(part), 128) for x in part.views.values())
        assert {view: facts["backbone"] for view, facts in part.sources.items()} == {
            "image": "pocket", "text": "pocket", "sound": "audio:pocket", "frames": "video:pocket"}  # fmt: skip
    two = bf.dataset("shapes", **SMALL, views=("sound", "image"), cache=cache)
    assert tuple(two.query.views) == ("sound", "image")
    np.testing.assert_array_equal(two.query.views["sound"], world.query.views["sound"])
    plain = bf.dataset("shapes", **SMALL, cache=cache)
    assert tuple(plain.query.views) == ("image", "text")
    more = bf.dataset("shapes", **{**SMALL, "n_query": 30}, views=("frames",), cache=False)
    np.testing.assert_allclose(more.query.views["frames"][:24], world.query.views["frames"], atol=2e-5)
    with pytest.raises(UnknownName, match="view of shapes 'smell'"):
        bf.dataset("shapes", **SMALL, views=("smell",))
    for bad in ((), ("image", "image")):
        with pytest.raises(InputError, match="each once"):
            bf.dataset("shapes", **SMALL, views=bad)


def test_frames_that_are_known_are_not_drawn_again(world, cache, monkeypatch):
    drawn = []
    monkeypatch.setattr("bitfuse.pipeline.shapes_views.frames", lambda *given: drawn.append(given) or frames(*given))
    again = bf.dataset("shapes", **SMALL, views=VIEWS, cache=cache)
    assert len(drawn) == 3  # the first scene of all, for each part: it stands for the version of the world
    np.testing.assert_array_equal(again.gallery.views["frames"], world.gallery.views["frames"])


def test_every_view_says_something_of_the_labels(world):
    """One view at a time, by the cosine of its centred features, against what a constant ranking scores."""
    relevant = (world.query.labels.astype(int) @ world.gallery.labels.T.astype(int)) > 0
    for view in VIEWS:
        mean = world.train.views[view].mean(axis=0)
        q, g = world.query.views[view] - mean, world.gallery.views[view] - mean
        ranked = np.argsort(-(q @ g.T) / np.linalg.norm(g, axis=1), axis=1)
        top = np.take_along_axis(relevant, ranked[:, :10], axis=1).mean()
        assert top > relevant.mean() + 0.1, view


def test_hashers_take_four_views_and_a_query_with_fewer(world):
    model = bf.hasher("clipmh", n_bits=16, epochs=2).fit(world.train.views, world.train.labels)
    assert set(model.widths) == set(VIEWS)
    assert len(model.encode({"sound": world.query.views["sound"]})) == 24


def test_the_section_on_views_has_every_choice_and_their_means(world):
    section = ablation("modalities")(data=world, quick=True)
    names = [row[0] for row in section.table.rows]
    assert len(names) == 15 + 4
    assert {"sound", "image + frames", "image + text + sound + frames", "mean of 3 views"} <= set(names)
    numbers = section.numbers
    singles = [numbers[view]["ITQ"][0] for view in VIEWS]
    assert numbers["mean of 1 view"]["ITQ"][0] == pytest.approx(np.mean(singles))
    whole = numbers["image + text + sound + frames"]
    assert whole["CLIPMH"] == whole["CLIPMH of all views"]
    assert all(0 < value < 1 for row in numbers.values() for values in row.values() for value in values)
    assert section.figures[0].startswith("<svg")
    two = ablation("modalities")(data=bf.dataset("shapes", **SMALL), quick=True)
    assert len(two.table.rows) == 3 + 2
    with pytest.raises(InputError, match="2 to 5 views"):
        ablation("modalities")(data=bf.dataset("shapes", **SMALL, views=("image",)), quick=True)


def test_the_section_on_backbones_names_what_was_absent(monkeypatch, world):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    absent = "dual:nobody/no-such-vit+nobody/no-such-bert"
    with pytest.raises(MissingWeights):
        bf.backbone(absent)
    section = ablation("backbones")(data=world, quick=True, backbones=("pocket", absent))
    assert [row[0] for row in section.table.rows] == ["pocket", CONTROL]
    assert f"Weights of {absent} are not on this machine" in section.text
    assert "VGG-16 + bag of words" in section.text.split("not measured here")[1]
    assert section.numbers["pocket"]["float"] > section.numbers[CONTROL]["float"]
    with pytest.raises(InputError, match="at least one"):
        ablation("backbones")(backbones=())


def test_the_control_knows_pixels_and_words(world):
    control = PixelsAndWords(world.train.texts)
    red = render(Scene((), "white", 0, 20, 1.0))
    np.testing.assert_allclose(control.encode("image", [red]), 0.5)
    assert control.encode("text", world.query.texts[:2]).shape == (2, control.width("text"))


def test_the_section_on_tuning_compares_the_same_scenes():
    section = ablation("tuning")(quick=True)
    names = [row[0] for row in section.table.rows]
    assert names == [BEFORE, "as it was, in the style it knows", "adapter", "LoRA"]
    r1 = {name: section.numbers[name]["R@1 image→text"][0] for name in names}
    assert r1["as it was, in the style it knows"] > r1[BEFORE]
    assert "outline" in section.text
