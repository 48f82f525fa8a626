"""The published data sets in their official layouts: miniature copies, damaged ones, and raw files to a table."""

import json
import shutil
import warnings

import numpy as np
import pytest
from tests.fake_backbone import FakeBackbone
from tests.layouts import CONCEPTS, LAYOUTS, coco, nuswide

import bitfuse as bf
from bitfuse.cli import main
from bitfuse.data.arrays import read_arrays
from bitfuse.data.base import Samples
from bitfuse.data.coco import read_coco
from bitfuse.data.flickr25k import POTENTIAL, VARIANTS, read_flickr25k
from bitfuse.data.nuswide import read_nuswide
from bitfuse.data.published import Published, RawSet
from bitfuse.data.sets import NAMES, read_published
from bitfuse.errors import DataWarning, InputError, UnknownName

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{words}:bitfuse.errors.DataWarning")
    for words in ("NOT the published", "as queries instead of 100")
]
DRAWN = ("flickr25k", "nuswide", "coco")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One miniature of each set, never changed."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in LAYOUTS.items()}


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of a miniature, to be damaged."""
    return lambda name: shutil.copytree(whole[name], tmp_path / name)


# What is read ---------------------------------------------------------------------------------------------------


def test_flickr25k_keeps_pictures_with_a_frequent_tag_and_a_label(whole):
    raw = read_flickr25k(whole["flickr25k"])
    samples = raw.samples
    assert len(samples) == 128
    assert not {"im1", "im2"} & set(samples.ids)  # no tag, no label
    assert samples.label_names == POTENTIAL
    assert len(POTENTIAL) == 24
    assert len(VARIANTS["38"]) == 38
    assert samples.labelled.all()
    assert all(samples.texts)
    assert not any("once" in text for text in samples.texts)  # tags of one picture alone
    third = whole["flickr25k"] / "mirflickr25k_annotations_v080" / "sky.txt"
    marked = {f"im{line}" for line in third.read_text().split()} - {"im2"}
    assert {samples.ids[i] for i in np.flatnonzero(samples.labels[:, POTENTIAL.index("sky")])} == marked & set(
        samples.ids
    )
    more = read_flickr25k(whole["flickr25k"] / "mirflickr", "38")  # the inner folder will do
    assert more.samples.labels.shape[1] == 38
    assert more.labels == "38 labels (MIR-Flickr25K)"


def test_the_frequent_tags_are_those_of_20_pictures(copy):
    root = copy("flickr25k")
    for i in range(3, 23):
        with (root / "mirflickr/meta/tags" / f"tags{i}.txt").open("a") as file:
            file.write("twenty\ntwenty\n" + ("nineteen\n" if i > 3 else ""))
    texts = dict(zip((raw := read_flickr25k(root)).samples.ids, raw.samples.texts))
    assert texts["im4"].split().count("twenty") == 1
    assert "nineteen" not in texts["im4"]


def test_nuswide_keeps_the_photos_under_the_most_frequent_concepts(whole, tmp_path):
    raw = read_nuswide(whole["nuswide"])
    assert raw.samples.label_names == tuple(c for c in CONCEPTS if c not in ("zebra", "tree"))
    assert raw.labels == "21 concepts (NUS-WIDE)"
    assert raw.samples.labelled.all()
    assert raw.samples.ids[0].startswith("sea/")
    assert all(path.is_file() for path in raw.samples.images)
    ten = read_nuswide(whole["nuswide"], "tc10").samples
    counts = read_nuswide(whole["nuswide"], "tc81").samples.labels.sum(axis=0)
    assert ten.labels.shape[1] == 10
    assert ten.labels.sum() == np.sort(counts)[-10:].sum()
    halves = read_nuswide(nuswide(tmp_path, halves=True))
    assert halves.samples.ids == raw.samples.ids
    assert halves.samples.texts == raw.samples.texts
    np.testing.assert_array_equal(halves.samples.labels, raw.samples.labels)


def test_nuswide_without_photos_reads_the_tags_and_says_so(copy):
    root = copy("nuswide")
    (root / "Flickr/sea/0003_9003.jpg").unlink()
    with pytest.warns(DataWarning, match="1 of .* photos are not there"):
        raw = read_nuswide(root)
    assert raw.samples.images.count(None) == 1
    (root / "Flickr/sea").rename(root / "images")
    (root / "Flickr").rmdir()
    with pytest.warns(DataWarning, match="1 of"):  # photos without their subfolders
        assert read_nuswide(root).samples.images.count(None) == 1
    shutil.rmtree(root / "images")
    with pytest.warns(DataWarning, match="holds no photos .* by request to its authors"):
        raw = read_nuswide(root)
    assert raw.samples.images is None
    assert raw.notes["photos that are not there"] == len(raw.samples)


def test_coco_takes_queries_from_val_and_searches_all_of_train(whole, tmp_path):
    raw = read_coco(whole["coco"])
    assert len(raw.samples) == 160
    assert raw.samples.texts[0].count("\n") == 0  # the caption of lowest id, stripped
    with pytest.warns(DataWarning, match="as queries instead of 100"):
        data = raw.split()
    assert len(data.gallery) == 106
    assert set(data.query.ids) <= {str(500 + i) for i in range(106, 160)}
    assert data.query.labelled.all()
    other = coco(tmp_path, year="2017")
    assert read_coco(other, "2017").samples.texts == raw.samples.texts
    with pytest.raises(InputError, match=r"no .*instances_train2014.json.*cocodataset.org.*nothing is downloaded"):
        read_coco(other)


def test_the_medical_and_the_satellite_set_come_in_their_own_parts(whole):
    sky, bones = (read_published(name, whole[name]) for name in ("rsicd", "roco"))
    assert [len(sky.train), len(sky.query), len(sky.gallery)] == [20, 20, 40]
    assert sky.query.label_names == ("00", "airport", "park")
    assert sky.query.texts[0].endswith(" .")
    assert (sky.gallery.labels.sum(axis=1) == 1).all()
    assert [len(bones.train), len(bones.gallery)] == [20, 40]
    assert all(i.startswith("ROCOv2_2023_test_") for i in bones.query.ids)
    assert bones.gallery.texts[0].endswith(", seen")
    assert bones.gallery.label_names[0].startswith("C0000")
    for data in (sky, bones):
        assert data.train_in_gallery == "all"
        assert "label variant" in data.notes


# Published counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_miniature_works_and_says_loudly_that_it_is_not_the_published_set(whole, name):
    with pytest.warns(DataWarning) as told:
        data = read_published(name, whole[name])
    assert any("NOT the published" in str(w.message) and "(published: " in str(w.message) for w in told)
    assert "NOT the published set" in data.name
    assert "published" in data.notes["differs from the published set"]


def test_counts_that_agree_say_nothing(whole, monkeypatch, recwarn):
    published = Published("A set", "a page")
    assert published.compare({"rows": 3, "more": 1}, {"rows": 3}, whole["coco"]) == []
    assert not recwarn.list
    monkeypatch.setattr(
        "bitfuse.data.coco.VARIANTS", {"2014": type("V", (), {"train": 106, "val": 54, "captions": (212, 108)})}
    )
    raw = read_coco(whole["coco"])
    assert len(raw.differs) == 1  # there are not 80 categories
    assert "categories (published: 80)" in raw.differs[0]


# The split ------------------------------------------------------------------------------------------------------


def many(n=3000, c=6, seed=0):
    labels = np.random.default_rng(seed).random((n, c)) < 0.2
    return Samples(tuple(f"i{k}" for k in range(n)), labels=labels, label_names=tuple("abcdef"[:c]))


def raw_set(samples, rows, n_train=500, among=None):
    return RawSet(Published("A set", "a page"), samples, "v", "6 labels (A set)", rows, n_train, among)


def test_the_split_draws_100_of_each_class_and_trains_within_the_gallery():
    samples = many()
    data = raw_set(samples, 3000).split()
    assert (data.query.labels.sum(axis=0) >= 100).all()
    assert 400 < len(data.query) <= 600
    assert len(data.query) + len(data.gallery) == 3000
    assert len(data.train) == 500
    assert data.train_in_gallery == "all"
    assert data.notes["split"] == "per-class"
    assert data.notes["split seed"] == 0
    again, other = raw_set(samples, 3000).split(), raw_set(samples, 3000).split(seed=1)
    assert again.query.ids == data.query.ids
    assert len(set(other.query.ids) & set(data.query.ids)) < len(data.query) / 2
    assert raw_set(samples, 3000).split(per_class=10, train=60).train.labels.shape == (60, 6)


def test_the_split_shrinks_on_a_small_copy_with_a_warning():
    with pytest.warns(DataWarning, match="3,000 rows instead of 30,000, so .* draws 10 of a class .* instead of 100"):
        data = raw_set(many(), 30_000).split()
    assert len(data.query) <= 60
    with pytest.warns(DataWarning, match="the whole gallery train"):
        data = raw_set(many(), 3000, n_train=2900).split()
    assert len(data.train) == len(data.gallery)


def test_queries_from_a_part_of_their_own():
    samples, among = many(), np.arange(3000) < 1200
    data = raw_set(samples, 3000, among=among).split()
    assert set(data.query.ids) < set(samples.ids[:1200])
    assert data.gallery.ids == samples.ids[1200:]
    with pytest.warns(DataWarning, match="all of each became queries"):
        data = raw_set(samples, 3000, among=among).split(per_class=1000)
    assert len(data.query) == int(samples.labels[:1200].any(axis=1).sum())


# Damaged copies -------------------------------------------------------------------------------------------------


def edit(path, change):
    path.write_text(change(path.read_text()))


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


NOTES, TAGS = "mirflickr25k_annotations_v080", "mirflickr/meta/tags"
TRAIN, CAPTIONS = "annotations/instances_train2014.json", "annotations/captions_train2014.json"
SKY, LABELS, TAGS1K = "dataset_rsicd.json", "Groundtruth/AllLabels", "NUS_WID_Tags/AllTags1k.txt"
LIST, SAID = "ImageList/Imagelist.txt", "test_captions.csv"
DAMAGE = [
    ("flickr25k", lambda r: (r / NOTES / "lake.txt").unlink(), r"there is no .*lake.txt.*press.liacs.nl"),
    ("flickr25k", lambda r: (r / NOTES / "lake.txt").write_text(""), r"lake.txt.* is empty; is its download complete"),
    ("flickr25k", lambda r: edit(r / NOTES / "sky.txt", lambda t: t + "2500O\n"), r"sky.txt, line \d+: '2500O' is not"),
    ("flickr25k", lambda r: edit(r / NOTES / "sky.txt", lambda t: t + "25001\n"), r"'25001' is not .* 1 to 25000"),
    ("flickr25k", lambda r: (r / TAGS / "tags7.txt").unlink(), r"there is no .*tags7.txt"),
    ("flickr25k", lambda r: shutil.rmtree(r / NOTES), "holds the annotations"),
    ("flickr25k", lambda r: (r / "mirflickr/im25001.jpg").touch(), "ends with im25000"),
    ("flickr25k", lambda r: [p.unlink() for p in r.glob("mirflickr/*.jpg")], "there is no .*im1.jpg"),
    ("flickr25k", lambda r: [p.write_text("") for p in (r / TAGS).iterdir()], "no picture has both"),
    ("nuswide", lambda r: (r / LIST).unlink(), r"no .*Imagelist.txt.*ImageList.zip"),
    ("nuswide", lambda r: shutil.rmtree(r / "Groundtruth/AllLabels"), r"no .*(Labels_sky|TrainImagelist)"),
    ("nuswide", lambda r: edit(r / LABELS / "Labels_sky.txt", lambda t: t[:-2]),
     r"Labels_sky.txt has 129 lines for 130 photos.*complete"),
    ("nuswide", lambda r: edit(r / LABELS / "Labels_sky.txt", lambda t: "2" + t[1:]), "must hold 0 or 1"),
    ("nuswide", lambda r: (r / "NUS_WID_Tags/TagList1k.txt").unlink(), r"TagList1k.txt.*NUS_WID_Tags.zip"),
    ("nuswide", lambda r: edit(r / TAGS1K, lambda t: "0\t" + t), "line 1: .* must hold"),
    ("nuswide", lambda r: edit(r / TAGS1K, lambda t: t[: len(t) * 2 // 3]), "AllTags1k.txt"),
    ("nuswide", lambda r: edit(r / LIST, lambda t: t + t), "stands more than once"),
    ("nuswide", lambda r: edit(r / LIST, lambda t: "../x.jpg\n" + t), r"line 1: '../x.jpg' is not"),
    ("nuswide", lambda r: (r / "ConceptsList").mkdir() or (r / "ConceptsList/Concepts81.txt").write_text("sky\nmoon\n"),
     "Labels_moon.txt"),
    ("coco", lambda r: (r / CAPTIONS).unlink(), r"no .*captions_train2014.json.*cocodataset.org"),
    ("coco", lambda r: edit(r / TRAIN, lambda t: t[: len(t) // 2]), r"instances_train2014.json is not complete JSON"),
    ("coco", lambda r: (r / TRAIN).write_text("[1]"), "holds a list"),
    ("coco", lambda r: edit_json(r / TRAIN, lambda c: c.pop("images")), "no list of records under 'images'"),
    ("coco", lambda r: edit_json(r / TRAIN, lambda c: c["images"].append(c["images"][0])),
     "picture id 500 occurs more than once"),
    ("coco", lambda r: edit_json(r / TRAIN, lambda c: c["annotations"][0].update(image_id=7)), "image_id 7 is not in"),
    ("coco", lambda r: edit_json(r / TRAIN, lambda c: c["annotations"][0].update(category_id=2)), "category_id 2"),
    ("coco", lambda r: edit_json(r / CAPTIONS, lambda c: c["annotations"][0].update(image_id=7)),
     r"captions_train2014.json: image_id 7 is not"),
    ("coco", lambda r: edit_json(r / CAPTIONS, lambda c: c["annotations"][0].update(id="a")), "must be a whole number"),
    ("coco", lambda r: edit_json(r / CAPTIONS, lambda c: c["annotations"].append(c["annotations"][0])),
     "caption id 2 occurs more than once"),
    ("coco", lambda r: edit_json(r / TRAIN, lambda c: c["categories"][0].update(name="other")), "different categories"),
    ("coco", lambda r: edit_json(r / TRAIN, lambda c: c["images"][0].update(id=650)), "not in the list|both the train"),
    ("coco", lambda r: edit_json(r / TRAIN, lambda c: c["images"][0].update(file_name="../x")), "'../x' is not"),
    ("coco", lambda r: shutil.rmtree(r / "val2014"), "there is no .*val2014"),
    ("rsicd", lambda r: edit(r / SKY, lambda t: t[:-9]), "not complete JSON"),
    ("rsicd", lambda r: edit_json(r / SKY, lambda c: c["images"].append(c["images"][0])), "listed more"),
    ("rsicd", lambda r: edit_json(r / SKY, lambda c: c["images"][4].pop("split")), "picture 5: needs"),
    ("rsicd", lambda r: edit_json(r / SKY, lambda c: c["images"][4].update(sentences=[])), "no sentence"),
    ("rsicd", lambda r: (r / "txtclasses_rsicd/park.txt").unlink(), "no class for 'park_"),
    ("rsicd", lambda r: edit_json(r / SKY, lambda c: c.pop("images")), "no list under 'images'"),
    ("rsicd", lambda r: shutil.rmtree(r / "RSICD_images"), "there is no .*RSICD_images"),
    ("roco", lambda r: (r / "test_concepts.csv").unlink(), r"test_concepts.csv.*Zenodo"),
    ("roco", lambda r: edit(r / "test_concepts.csv", lambda t: t + "stranger,C1\n"), "'stranger' has no caption"),
    ("roco", lambda r: edit(r / SAID, lambda t: t + t.splitlines()[1] + "\n"), "an ID of its own"),
    ("roco", lambda r: edit(r / SAID, lambda t: t.replace("Caption", "Text", 1)), "must have the columns"),
    ("roco", lambda r: edit(r / SAID, lambda t: t[:-9]), "is a quotation mark left open"),
    ("roco", lambda r: shutil.rmtree(r / "valid"), "there is no .*valid"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGE, ids=lambda v: v if isinstance(v, str) else "")
def test_a_damaged_copy_is_an_error_that_names_the_file(copy, name, damage, words):
    root = copy(name)
    damage(root)
    with pytest.raises(InputError, match=words):
        read_published(name, root)


def test_names_folders_and_options_that_do_not_exist(whole, tmp_path):
    with pytest.raises(InputError, match=r"no folder .*press.liacs.nl.*nothing is downloaded"):
        read_published("flickr25k", tmp_path / "nowhere")
    for name in DRAWN:
        with pytest.raises(UnknownName, match=f"unknown variant of {name} '5'"):
            read_published(name, whole[name], variant="5")
    with pytest.raises(InputError, match="leave seed out"):
        read_published("roco", whole["roco"], seed=1)
    with pytest.raises(UnknownName, match="published data set"):
        read_published("imagenet", tmp_path)
    with pytest.raises(InputError, match="give root="):
        bf.dataset("coco", backbone=FakeBackbone())
    with pytest.raises(UnknownName, match="option of coco"):
        bf.dataset("coco", root=tmp_path, sead=1)


# Feature files --------------------------------------------------------------------------------------------------


def test_class_numbers_of_the_parts_meet_though_a_part_lacks_a_class(tmp_path):
    numbers = {"tr": [1, 2, 10, 2], "te": [10, 2], "db": [2, 2, 1, 3, 10, 10]}
    arrays = {f"L_{part}": np.array(v)[:, None] for part, v in numbers.items()}
    arrays |= {f"I_{part}": np.random.default_rng(len(v)).normal(size=(len(v), 3)) for part, v in numbers.items()}
    np.savez(tmp_path / "parts.npz", **arrays)
    data = read_arrays(tmp_path / "parts.npz")
    for part, wanted in ((data.train, "tr"), (data.query, "te"), (data.gallery, "db")):
        assert part.label_names == ("1", "2", "3", "10")
        assert [part.label_names[i] for i in part.labels.argmax(axis=1)] == [str(v) for v in numbers[wanted]]
    np.savez(tmp_path / "other.npz", **{**arrays, "L_te": np.eye(2), "L_tr": np.eye(4), "L_db": np.eye(6)})
    with pytest.raises(InputError, match="same label columns"):
        read_arrays(tmp_path / "other.npz")


# From raw files to a table --------------------------------------------------------------------------------------


def test_a_data_set_by_name_has_features_in_every_part(whole, tmp_path, copy):
    root = copy("flickr25k")
    (root / "mirflickr/im9.jpg").write_bytes(b"cut")
    (root / "mirflickr/meta/tags/tags9.txt").write_text((root / "mirflickr/meta/tags/tags8.txt").read_text())
    with pytest.warns(DataWarning, match=r"1 row\(s\) with inputs that cannot be used: im9"):
        data = bf.dataset("flickr25k", root=root, backbone=FakeBackbone(), cache=False, variant="38", seed=3)
    assert set(data.query.views) == {"image", "text"}
    assert data.train_in_gallery == "all"
    assert data.notes["variant"] == "38 labels"
    assert data.notes["split seed"] == 3
    assert "38 labels" in data.name


def run(capsys, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # shown on standard error, as a person sees them
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in args])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


@pytest.mark.parametrize("name", DRAWN)
def test_from_raw_files_to_a_table_by_the_command_line(whole, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("BITFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bitfuse.cli._SHOWN", set())
    source, model = f"{name}:{whole[name]}", tmp_path / "model"
    options = ("--method", "itq", "--bits", "16", "--backbone", "pocket", "--split-seed", "1", "--out", model)
    code, out, err = run(capsys, "fit", source, *options)
    assert code == 0, err
    assert "NOT the published" in err
    code, out, err = run(capsys, "evaluate", model, source)
    assert code == 0, err
    flat = " ".join(out.split())
    assert "split seed 1; NOT the published set" in flat
    assert "random codes" in flat
    assert "Protocol 'strict'" in flat
    code, out, _ = run(capsys, "evaluate", model, source, "--json")
    facts = json.loads(out)
    assert facts["sizes"]["query"] > 5
    assert facts["map"] > facts["floors"]["random codes"]
    assert any(note.startswith("label variant: ") for note in facts["notes"])
    if name != "coco":  # where queries and gallery come from one pool, another seed makes queries of training rows
        code, _, err = run(capsys, "evaluate", model, source, "--split-seed", "2")
        assert code == 2
        assert "queries were used to train" in err


def test_a_published_set_has_no_columns(whole, tmp_path, capsys):
    source = f"coco:{whole['coco']}"
    code, _, err = run(capsys, "fit", source, "--label", "kind", "--backbone", "pocket", "--out", tmp_path / "m")
    assert code == 2
    assert "no columns to name" in err
    code, _, err = run(capsys, "fit", f"coco:{tmp_path}/none", "--backbone", "pocket", "--out", tmp_path / "m")
    assert code == 2
    assert "cocodataset.org" in err
