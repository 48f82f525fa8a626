"""Readers of tables, folders and arrays, and the splits: what they accept, and what they refuse with which words."""

import hashlib
import json
import os
import pickle
from datetime import date
from decimal import Decimal

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bitfuse.data.arrays import read_arrays
from bitfuse.data.base import Dataset, Samples
from bitfuse.data.columns import typed
from bitfuse.data.read import read
from bitfuse.data.split import holdout_mask, split
from bitfuse.data.table import read_folder, read_table
from bitfuse.errors import DataWarning, InputError, UnknownName


def table(tmp_path, text, name="items.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


# Tables ---------------------------------------------------------------------------------------------------------


def test_a_csv_with_the_default_columns(tmp_path):
    path = table(
        tmp_path,
        "id,image,text,labels,price,code,new,size,note\n"
        'a,pics/1.jpg,"red, ""round""\nhat",hat|red,9.50,007,true,3,\n'
        "b,,,,12,12,FALSE,,\n",
    )
    samples = read_table(path)
    assert samples.ids == ("a", "b")
    assert samples.images == [tmp_path / "pics/1.jpg", None]
    assert samples.texts == ['red, "round"\nhat', None]
    assert samples.label_names == ("hat", "red")
    assert samples.labels.tolist() == [[True, True], [False, False]]
    assert samples.attributes == {
        "price": [9.5, 12.0],
        "code": ["007", "12"],
        "new": [True, False],
        "size": [3, None],
        "note": [None, None],
    }
    assert [type(v) for v in samples.attributes["price"]] == [float, float]


def test_columns_named_by_the_user_and_several_label_columns(tmp_path):
    path = table(tmp_path, "sku\tphoto\twords\tkind\tcolour\n1\ta.png\tx\tA; B\tred\n2\tb.png\ty\tB\t\n", "t.tsv")
    samples = read_table(path, id="sku", image="photo", text="words", labels=["kind", "colour"], label_sep=";")
    assert samples.ids == ("1", "2")
    assert samples.label_names == ("colour=red", "kind=A", "kind=B")
    assert samples.labels.tolist() == [[True, True, True], [False, False, True]]
    assert not samples.attributes
    whole = read_table(path, image="photo", labels="kind", label_sep="")
    assert whole.label_names == ("A; B", "B")
    assert "colour" in whole.attributes


def test_a_table_without_the_named_column_lists_what_exists(tmp_path):
    path = table(tmp_path, "picture,caption\na.png,x\n")
    with pytest.raises(UnknownName, match=r"unknown column 'captions'; did you mean 'caption'.*caption, picture"):
        read_table(path, text="captions")
    with pytest.raises(InputError, match=r"neither a column named image nor one named text.*picture, caption"):
        read_table(path)


def test_ids_come_from_image_paths_or_row_numbers(tmp_path):
    assert read_table(table(tmp_path, "image\na.png\nb/c.png\n")).ids == ("a.png", "b/c.png")
    assert read_table(table(tmp_path, "image\na.png\na.png\n")).ids == ("row-000001", "row-000002")
    assert read_table(table(tmp_path, "image,text\na.png,x\n,y\n")).ids == ("row-000001", "row-000002")
    with pytest.raises(InputError, match=r"distinct.*'a'"):
        read_table(table(tmp_path, "id,text\na,x\na,y\n"))
    with pytest.raises(InputError, match="row 2: None is no id"):
        read_table(table(tmp_path, "id,text\na,x\n,y\n"))


@pytest.mark.parametrize(
    "value", ["/etc/passwd", "../x.png", "a/../../x.png", "C:\\x.png", "..\\x.png", "https://example.org/a.png"]
)
def test_a_path_that_leaves_the_folder_is_an_error_that_names_the_row(tmp_path, value):
    with pytest.raises(InputError, match=r"items\.csv, row 2: image path .* must be relative and stay inside"):
        read_table(table(tmp_path, f'image\nfine.png\n"{value}"\n'))


def test_links_that_leave_the_folder_are_refused_and_links_inside_are_not(tmp_path):
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "outside" / "secret.png")
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "pics").mkdir()
    (shop / "door").symlink_to(tmp_path / "outside")
    (shop / "pics" / "one.png").symlink_to(tmp_path / "outside" / "secret.png")
    (shop / "pics" / "two.png").symlink_to("three.png")
    for value in ("door/secret.png", "pics/one.png"):
        with pytest.raises(InputError, match=r"leaves .* through a link"):
            read_table(table(shop, f"image\n{value}\n"))
    assert read_table(table(shop, "image\npics/two.png\n")).images == [shop / "pics/two.png"]
    assert read_table(table(shop, "image\nsecret.png\n"), root=tmp_path / "outside").ids == ("secret.png",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("id,text\n", "has no rows"),
        ("id,text\na,x\n\nb,y,z\n", "line 4: 3 fields under 2 columns"),
        ('text,id\n"a\nb",1\nc\n', "line 4: 1 fields under 2"),
        ('text\nfine\n"never closed\n', "after line 2: unexpected end of data; is a quotation mark left open"),
        ("id,id\n1,2\n", "a name of its own"),
        ("id,\n1,2\n", "a name of its own"),
    ],
)
def test_bad_csv_is_an_error_with_the_line(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read_table(table(tmp_path, text))


def test_encodings(tmp_path):
    assert read_table(table(tmp_path, "text\nGrüße\n", encoding="utf-8-sig")).texts == ["Grüße"]
    with pytest.raises(InputError, match="not UTF-8"):
        read_table(table(tmp_path, "text\nGrüße\n", encoding="latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_table(table(tmp_path, "text\nx\n", encoding="utf-16"))


def test_json_lines(tmp_path):
    rows = [
        {"id": 7, "text": "a", "labels": ["x", "y"], "price": 3, "tags": ["p"], "mixed": 1, "big": 1 << 70},
        {"id": "8", "text": "  ", "labels": "y|z", "price": 2.5, "mixed": "one", "late": True},
        {"id": "9", "labels": None, "price": None},
    ]
    samples = read_table(table(tmp_path, "\ufeff" + "\n".join(map(json.dumps, rows)) + "\n\n", "items.jsonl"))
    assert samples.ids == ("7", "8", "9")
    assert samples.texts == ["a", None, None]
    assert samples.label_names == ("x", "y", "z")
    assert samples.labels.sum(axis=1).tolist() == [2, 2, 0]
    assert samples.attributes == {
        "price": [3.0, 2.5, None],
        "tags": ['["p"]', None, None],
        "mixed": ["1", "one", None],
        "big": [str(1 << 70), None, None],
        "late": [None, True, None],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ('{"text": "a"}\n[1]\n', "line 2: list found"),
        ('{"text": ["a", "b"]}\n', "row 1: the text is a list"),
        ('{"text": "a", "id": [1]}\n', "row 1: .* is no id"),
        ('{"text": "a", "labels": {"x": 1}}\n', "is not a label"),
        ('{"text": "a", "labels": [0.5]}\n', "is not a label"),
        ('{"text": "\\ud83d"}\n', "surrogate"),
        ('{"image": 3}\n', "3 is not an image path"),
        ('{"image": "a\\u0000b"}\n', "is not an image path"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_json_lines(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read_table(table(tmp_path, text, "items.jsonl"))


def test_numeric_labels_are_sorted_as_numbers(tmp_path):
    samples = read_table(table(tmp_path, "text,labels\na,10|2\nb,9\n"))
    assert samples.label_names == ("2", "9", "10")


def test_parquet_with_lists_records_and_types(tmp_path):
    path = tmp_path / "items.parquet"
    pq.write_table(
        pa.table(
            {
                "image": [{"bytes": b"PNG", "path": None}, {"bytes": None, "path": "a.png"}],
                "labels": [["x"], ["x", "y"]],
                "price": [Decimal("9.50"), None],
                "day": [date(2024, 5, 1), None],
                "score": [float("nan"), 1.0],
            }
        ),
        path,
    )
    samples = read_table(path)
    assert samples.images == [b"PNG", tmp_path / "a.png"]
    assert samples.ids == ("row-000001", "row-000002")
    assert samples.labels.tolist() == [[True, False], [True, True]]
    assert samples.attributes == {"price": [9.5, None], "day": ["2024-05-01", None], "score": [None, 1.0]}
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_table(path)


def test_types_of_csv_columns_are_guessed_only_where_certain():
    cases = {
        ("1", "-2", None): [1, -2, None],
        ("01", "2"): ["01", "2"],
        ("1.5", "2"): [1.5, 2.0],
        ("1e5", "2"): ["1e5", "2"],
        ("+1", "2"): ["+1", "2"],
        ("nan", "1.0"): ["nan", "1.0"],
        ("inf", "1.0"): ["inf", "1.0"],
        ("1.0e999",): ["1.0e999"],
        ("True", "false"): [True, False],
        ("true", "1"): ["true", "1"],
        (" 1", "2"): [" 1", "2"],
        ("9" * 18,): [int("9" * 18)],
        ("9" * 19,): ["9" * 19],
        ("1,5",): ["1,5"],
    }
    for values, expected in cases.items():
        assert typed(values, strings=True) == expected, values
        assert [type(v) for v in typed(values, strings=True)] == [type(v) for v in expected]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none()), max_size=6))
def test_typed_columns_hold_one_type_and_keep_their_nulls(values):
    kinds = {type(v) for v in typed(values, strings=False) if v is not None}
    assert len(kinds) <= 1
    assert [v is None for v in typed(values, strings=False)] == [
        v is None or (isinstance(v, float) and not np.isfinite(v)) for v in values
    ]


def test_a_column_of_texts_taken_for_labels_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("bitfuse.data.table._LABEL_CELLS", 99)
    rows = "".join(f"text {i},label {i}\n" for i in range(10))
    with pytest.raises(InputError, match="10 distinct labels in 10 rows"):
        read_table(table(tmp_path, "text,labels\n" + rows))


# Folders --------------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures(tmp_path):
    for name in ("b.png", "cats/1.JPG", "cats/deep/2.webp", "dogs/1.jpg", ".hidden.png", ".git/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dogs" / "drawing.svg").touch()
    samples = read_folder(tmp_path)
    assert samples.ids == ("b.png", "cats/1.JPG", "cats/deep/2.webp", "dogs/1.jpg", "dogs/drawing.svg")
    assert samples.images == [tmp_path / i for i in samples.ids]
    assert samples.attributes["folder"] == [tmp_path.name, "cats", "deep", "dogs", "dogs"]
    assert samples.texts is None
    assert samples.labels is None
    labelled = read_folder(tmp_path, labels="folder")
    assert labelled.labels.sum(axis=1).tolist() == [1] * 5
    with pytest.raises(InputError, match="by 'folder' alone"):
        read_folder(tmp_path, labels="kind")


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="holds no pictures"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        read_folder(tmp_path / "none")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.png").touch()
    (inside / "b.png").symlink_to("a.png")
    assert read_folder(inside).ids == ("a.png", "b.png")
    for name, target in (("c.png", tmp_path / "outside.png"), ("door", tmp_path)):
        (inside / name).symlink_to(target)
        with pytest.raises(InputError, match="a link that leaves"):
            read_folder(inside)
        (inside / name).unlink()
    with open(os.fsencode(inside) + b"/\xff.png", "w"):
        pass
    with pytest.raises(InputError, match="not valid Unicode"):
        read_folder(inside)


# Arrays ---------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
IMAGE, TEXT = RNG.normal(size=(6, 5)).astype(np.float32), RNG.normal(size=(6, 3)).astype(np.float32)
LABELS = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])


def save_npz(path, arrays):
    np.savez(path, **arrays)


def save_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values.astype(object) if values.dtype.kind == "U" else values


def save_mat(path, arrays):
    cells = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in arrays.items()}
    scipy.io.savemat(path, cells)


def save_mat73(path, arrays):
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file[name] = values.astype(object) if values.dtype.kind == "U" else values.T
            kind = {"f": b"double", "i": b"int64", "b": b"logical"}.get(values.dtype.kind)
            if kind:
                file[name].attrs["MATLAB_class"] = np.bytes_(kind)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))


SAVERS = {"npz": save_npz, "h5": save_hdf5, "mat": save_mat, "v73.mat": save_mat73}


@pytest.mark.parametrize("kind", SAVERS)
def test_one_set_of_arrays(tmp_path, kind):
    path = tmp_path / f"features.{kind}"
    SAVERS[kind](
        path,
        {
            "image": IMAGE,
            "text": TEXT.astype(np.float64),
            "labels": LABELS,
            "label_names": np.array(["cat", "dog"]),
            "ids": np.arange(10, 16),
            "price": np.array([1.5, 2, 3, 4, 5, 6]),
        },
    )
    samples = read_arrays(path)
    assert isinstance(samples, Samples)
    assert samples.ids == tuple(map(str, range(10, 16)))
    assert samples.views.keys() == {"image", "text"}
    np.testing.assert_array_equal(samples.views["image"], IMAGE)
    np.testing.assert_array_equal(samples.views["text"], TEXT)
    assert {v.dtype for v in samples.views.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(samples.labels, LABELS == 1)
    assert samples.label_names == ("cat", "dog")
    assert samples.attributes == {"price": [1.5, 2, 3, 4, 5, 6]}


@pytest.mark.parametrize("kind", SAVERS)
def test_class_numbers(tmp_path, kind):
    path = tmp_path / f"features.{kind}"
    numbers = np.array([0, 2, 1, 0, 2, -1]) + (kind.endswith("mat"))
    numbers[-1] = -1
    SAVERS[kind](path, {"image": IMAGE, "labels": numbers, "label_names": np.array(["a", "b", "c"])})
    samples = read_arrays(path)
    np.testing.assert_array_equal(samples.labels.argmax(axis=1)[:5], [0, 2, 1, 0, 2])
    assert samples.labelled.tolist() == [True] * 5 + [False]
    SAVERS[kind](path, {"image": IMAGE, "labels": np.array([30, 7, 7, 30, 30, 7]).astype(float)})
    samples = read_arrays(path)
    assert samples.label_names == ("7", "30")
    assert samples.labels[:, 0].tolist() == [False, True, True, False, False, True]
    assert samples.ids[0] == "row-000001"


def test_class_names_and_chosen_views(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, a=IMAGE, b=TEXT, other=np.ones((2, 9)), labels=np.array([*"xyxyx", ""]))
    samples = read_arrays(path, views=["a"])
    assert samples.views.keys() == {"a"}
    assert samples.label_names == ("x", "y")
    assert not samples.labelled[5]
    with pytest.raises(InputError, match=r"no view.*\['c'\]; arrays: a, b, other"):
        read_arrays(path, views=["c"])


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("database", [False, True])
def test_the_train_and_query_parts_of_the_literature(tmp_path, kind, database):
    path = tmp_path / f"wiki.{kind}"
    big = {"I": RNG.normal(size=(20, 5)), "T": RNG.normal(size=(20, 4)), "L": (np.eye(4)[np.arange(20) % 4])}
    rows = {"tr": slice(0, 8), "te": slice(14, 20)} | ({"db": slice(0, 14)} if database else {})
    arrays = {f"{letter}_{part}": x[s] for letter, x in big.items() for part, s in rows.items()}
    SAVERS[kind](path, arrays | {"sampleInds": np.arange(8)})
    data = read_arrays(path)
    assert isinstance(data, Dataset)
    assert (len(data.train), len(data.query), len(data.gallery)) == (8, 6, 14 if database else 8)
    assert data.train_in_gallery == "all"
    np.testing.assert_array_equal(data.query.views["text"], big["T"][14:].astype(np.float32))
    np.testing.assert_array_equal(data.query.labels, big["L"][14:] == 1)
    assert data.notes["ignored arrays"] == ["sampleInds"]
    assert data.notes["query rows equal to gallery rows"] == 0


def test_queries_that_repeat_gallery_rows_are_warned_of(tmp_path):
    path = tmp_path / "leak.npz"
    np.savez(path, I_tr=IMAGE, T_tr=TEXT, I_te=IMAGE[:2], T_te=TEXT[:2])
    with pytest.warns(DataWarning, match="2 of 2 query rows equal a gallery row"):
        assert read_arrays(path).notes["query rows equal to gallery rows"] == 2


def test_equal_training_rows_are_matched_one_by_one(tmp_path):
    path = tmp_path / "twins.npz"
    same = np.ones((3, 2))
    np.savez(path, I_tr=np.vstack([same, [[5, 5]]]), I_te=np.zeros((1, 2)), I_db=np.vstack([same, [[7, 7]]]))
    data = read_arrays(path)
    assert data.train.ids == ("gallery-000001", "gallery-000002", "gallery-000003", "train-000004")
    assert data.train_in_gallery == "some"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": IMAGE, "labels": LABELS[:4]}, r"labels of shape \(4, 2\) for 6 rows"),
        ({"image": IMAGE, "labels": np.arange(5)}, r"labels of shape \(5,\) for 6 rows"),
        ({"image": IMAGE, "labels": LABELS * 2 - 1}, "must hold 0 and 1 alone"),
        ({"image": IMAGE, "labels": np.array([0, 1, 2, 0, 1, 0.5])}, "must be whole"),
        ({"image": IMAGE, "labels": np.array([0, 1, 2, 0, 1, 3]), "label_names": np.array(["a", "b"])}, "for 2 names"),
        ({"image": IMAGE, "labels": LABELS, "label_names": np.array(["a"])}, "1 label names for 2"),
        ({"image": IMAGE, "text": TEXT[:4]}, r"'text' must be numbers of shape \(6, d\)"),
        ({"image": IMAGE.astype(complex)}, "must be numbers"),
        ({"image": np.where(np.eye(6, 5) == 1, np.nan, IMAGE)}, r"some NaN or infinite values, the first is row 0"),
        ({"image": np.full((6, 5), 1e300)}, "infinite"),
        ({"image": IMAGE, "ids": np.zeros(6, int)}, "ids must be distinct"),
        ({"image": IMAGE, "odd": np.ones((2, 2, 2))}, "'odd'.* are neither views"),
        ({"price": np.ones(6)}, "no two-dimensional array"),
        ({}, "holds no arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=words):
        read_arrays(tmp_path / "bad.npz")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("BOMB",)


def test_pickles_are_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pkl", "a.npy", "a.npz", "a.pt", "a.mat", "a.h5"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError, match=r"pickle|cannot be read"):
            read_arrays(tmp_path / name)
        with pytest.raises(InputError, match=r"pickle|cannot be read"):
            read(name)
    np.savez(tmp_path / "b.npz", image=np.array([Bomb(), None], dtype=object))
    with pytest.raises(InputError, match="'image' holds Python objects"):
        read_arrays(tmp_path / "b.npz")
    assert not (tmp_path / "BOMB").exists()


def test_hdf5_that_points_elsewhere_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = IMAGE
    (tmp_path / "raw.bin").write_bytes(IMAGE.tobytes())

    def external_link(file):
        file["image"] = h5py.ExternalLink("other.h5", "/image")

    def soft_link(file):
        file["there"] = IMAGE
        file["image"] = h5py.SoftLink("/there")

    def external_storage(file):
        file.create_dataset("image", (6, 5), np.float32, external=[(str(tmp_path / "raw.bin"), 0, 120)])

    def virtual(file):
        layout = h5py.VirtualLayout((6, 5), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "image", (6, 5))
        file.create_virtual_dataset("image", layout)

    def reference(file):
        file["real"] = IMAGE
        file["image"] = np.array([file["real"].ref] * 6, dtype=h5py.ref_dtype)

    def group(file):
        file["views/image"] = IMAGE

    words = ["a link", "a link", "in another file", "in another file", "no cells", "a group"]
    for make, word in zip((external_link, soft_link, external_storage, virtual, reference, group), words):
        with h5py.File(tmp_path / "bad.h5", "w") as file:
            make(file)
        with pytest.raises(InputError, match=word):
            read_arrays(tmp_path / "bad.h5")


def test_matlab_sparse_matrices_and_structs(tmp_path):
    path = tmp_path / "m.mat"
    scipy.io.savemat(path, {"image": IMAGE, "labels": scipy.sparse.csc_matrix(LABELS.astype(float))})
    np.testing.assert_array_equal(read_arrays(path).labels, LABELS == 1)
    scipy.io.savemat(path, {"image": IMAGE, "s": {"x": 1}})
    with pytest.raises(InputError, match="'s' is a struct"):
        read_arrays(path)
    scipy.io.savemat(path, {"image": IMAGE, "c": np.array([IMAGE, "x"], dtype=object)})
    with pytest.raises(InputError, match="'c' is a cell array"):
        read_arrays(path)


@pytest.mark.parametrize("kind", SAVERS)
def test_damaged_array_files(tmp_path, kind):
    path = tmp_path / f"features.{kind}"
    SAVERS[kind](path, {"image": RNG.normal(size=(200, 20))})
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:700], b"", b"nonsense" * 100):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            read_arrays(path)


def test_read_goes_by_the_path(tmp_path):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.png").touch()
    np.savez(tmp_path / "f.npz", image=IMAGE)
    assert read(tmp_path / "pics").ids == ("a.png",)
    assert "image" in read(str(tmp_path / "f.npz")).views
    assert read(table(tmp_path, "words\nx\n"), text="words").texts == ["x"]
    with pytest.raises(InputError, match="no file or folder"):
        read(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"is an array file, for which \['labels'\] cannot be named"):
        read(tmp_path / "f.npz", labels="kind")
    with pytest.raises(InputError, match="is not a table that is read"):
        read(table(tmp_path, "x", "items.xlsx"))


# Splits ---------------------------------------------------------------------------------------------------------


def labelled(n=400, c=5, unlabelled=40):
    labels = np.random.default_rng(1).random((n, c)) < 0.3
    labels[:, 0] |= ~labels.any(axis=1)
    labels[:unlabelled] = False
    names = tuple("abcdefgh"[:c])
    return Samples(tuple(f"i{k}" for k in range(n)), {"image": np.ones((n, 2), np.float32)}, labels=labels,
                   label_names=names)  # fmt: skip


def test_the_holdout_is_the_same_for_ever():
    held = np.flatnonzero(holdout_mask([f"item-{i}" for i in range(60)])).tolist()
    digests = [hashlib.sha256(b"bitfuse\0" + f"item-{i}".encode()).digest() for i in range(60)]
    assert held == [i for i, d in enumerate(digests) if int.from_bytes(d[:8], "big") / 2**64 < 0.1]
    assert held == [7, 32, 34, 42, 49]
    ids = [f"x{i}" for i in range(20_000)]
    assert abs(holdout_mask(ids, 0.25).mean() - 0.25) < 0.01
    assert holdout_mask(ids, 0.0).sum() == 0
    assert holdout_mask(ids, 1.0).all()
    assert (holdout_mask(ids, 0.5, "other") != holdout_mask(ids, 0.5)).any()
    np.testing.assert_array_equal(holdout_mask(ids[::-1]), holdout_mask(ids)[::-1])
    with pytest.raises(InputError, match="between 0 and 1"):
        holdout_mask(ids, 1.5)


def test_the_strict_split_keeps_unlabelled_rows_in_the_gallery():
    samples = labelled()
    data = split(samples)
    assert data.query.labelled.all()
    assert set(data.query.ids) == set(np.array(samples.ids)[holdout_mask(samples.ids) & samples.labelled])
    assert len(data.query) + len(data.gallery) == 400
    assert set(samples.ids[:40]) <= set(data.gallery.ids)
    assert data.train_in_gallery == "all"
    assert data.notes["rows without labels"] == 40


def test_split_sizes_and_training_parts():
    samples = labelled()
    assert len(split(samples, n_query=50).query) == 50
    assert split(samples, n_query=50, seed=1).query.ids != split(samples, n_query=50).query.ids
    assert split(samples, n_query=50).query.ids == split(samples, n_query=50).query.ids
    halves = split(samples, n_query=50, train="disjoint")
    assert (len(halves.train), len(halves.gallery), halves.train_in_gallery) == (175, 175, "none")
    part = split(samples, n_query=50, train=0.2)
    assert (len(part.train), len(part.gallery), part.train_in_gallery) == (70, 350, "all")
    assert len(split(samples, n_query=50, train=123).train) == 123
    more = split(samples, n_query=60)
    assert set(split(samples, n_query=50).query.ids) < set(more.query.ids)


def test_the_class_wise_recipe_draws_from_every_label():
    samples = labelled(c=4)
    data = split(samples, per_class=10)
    assert (data.query.labels.sum(axis=0) >= 10).all()
    assert 10 <= len(data.query) <= 40
    with pytest.warns(DataWarning, match="label.* have fewer than 400 rows"):
        many = split(samples, per_class=200)
    assert (many.gallery.labels.sum(axis=0) > 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_query": 0}, "n_query must be 1 to 360"),
        ({"n_query": 361}, "n_query must be 1 to 360"),
        ({"n_query": 5, "per_class": 5}, "not both"),
        ({"query_share": 0.0}, "query is empty"),
        ({"per_class": 0}, "at least 1"),
        ({"train": "half"}, "train must be"),
        ({"train": 0.0}, "train must be"),
        ({"n_query": 50, "train": 400}, "a count up to 350"),
    ],
)
def test_bad_splits(options, words):
    with pytest.raises(InputError, match=words):
        split(labelled(), **options)


def test_splitting_without_labels():
    bare = Samples(tuple("abcdefghij"), {"image": np.ones((10, 2), np.float32)})
    assert len(split(bare, n_query=3).gallery) == 7
    with pytest.raises(InputError, match="there are no labels"):
        split(bare, per_class=1)
