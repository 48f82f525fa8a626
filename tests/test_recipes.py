"""Recipes of published tables: complete, equal to the reference, and valid for the methods as they are now."""

import csv
import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from tests.layouts import flickr25k

from bitfuse.bench import recipes
from bitfuse.bench.summary import summarise
from bitfuse.bench.tables import by_setting
from bitfuse.cli import main
from bitfuse.errors import BitfuseWarning, InputError, UnknownName
from bitfuse.hashers import hasher_class

TABLE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "published_clipmh_table2.csv"
TEXT = (Path(recipes.__file__).parent / "zhu2023_sapmh_nuswide.yaml").read_text()


def command(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    return stop.value.code, *capsys.readouterr()


def clipmh_table():
    return [recipes.recipe(name) for name in recipes.names() if name.startswith("zhu2023_")]


def test_the_whole_table_is_there():
    found = clipmh_table()
    assert len(found) == 42
    assert sum(len(r.published) for r in found) == 168
    assert len({r.method for r in found}) == 14
    assert {r.dataset for r in found} == {"mirflickr25k", "nuswide", "mscoco"}
    assert {tuple(r.published) for r in found} == {(16, 32, 64, 128)}


def test_every_number_is_the_published_one():
    if not TABLE.is_file():
        pytest.skip(f"no reference beside the repository: {TABLE} is absent")
    with TABLE.open() as file:
        published = {(r["method"], r["dataset"], int(r["bits"])): float(r["map"]) for r in csv.DictReader(file)}
    assert published == {(r.method, r.dataset, b): value for r in clipmh_table() for b, value in r.published.items()}


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_fits_the_method_as_it_is_now(name):
    recipe = recipes.recipe(name)
    fields = {f.name for f in dataclasses.fields(hasher_class(recipe.method)) if f.init}
    assert set(recipe.parameters) <= fields - {"n_bits", "seed"}
    presets = hasher_class(recipe.method).presets
    assert recipe.preset == ("published" if "published" in presets else "default")
    model = recipe.hasher(64, seed=3)
    assert (model.n_bits, model.seed) == (64, 3)
    settled = {**presets.get(recipe.preset, {}), **recipe.parameters}
    assert {k: model.parameters[k] for k in settled} == settled
    assert set(recipe.features) == {"image", "text"}
    assert {"train", "gallery", "query", "classes"} <= set(recipe.split)
    assert recipe.open


def test_suspected_typos_stand_apart_from_their_neighbours():
    doubted = {(r.method, r.dataset, b): r.published for r in clipmh_table() for b in r.suspected_typos}
    assert set(doubted) == {("dmvh", "nuswide", 64), ("fgcmh", "mscoco", 32), ("mfh", "mscoco", 32)}
    for (_, _, bits), row in doubted.items():
        assert not row[bits // 2] <= row[bits] <= row[bits * 2]


@pytest.mark.parametrize(
    ("old", "new", "error", "match"),
    [
        ("theta: 1.0e-7", "thetta: 1.0e-7", UnknownName, "did you mean 'theta'"),
        ("preset: published", "preset: publisht", UnknownName, "preset of sapmh"),
        ("protocol: clipmh2023", "protocol: clipmh", UnknownName, "protocol"),
        ("16: 0.6503", "16: 65.03", InputError, "above 0 and below 1"),
        ("suspected_typos: {}", "suspected_typos: {48: odd}", InputError, "does not publish"),
        ("open:", "remarks:", InputError, r"lacks \['open'\], has unknown \['remarks'\]"),
        ("method: sapmh", "method: bsth", InputError, "named so"),
        ("method: sapmh", "method: [", InputError, "not YAML"),
    ],
)
def test_a_wrong_recipe_is_refused(old, new, error, match):
    assert old in TEXT
    with pytest.raises(error, match=match):
        recipes.parse("zhu2023_sapmh_nuswide", TEXT.replace(old, new, 1))


def test_recipes_are_listed(capsys):
    code, out, _ = command(capsys, "bench", "recipes", "*_dmvh_*")
    assert code == 0
    assert "3 recipes" in out
    assert "0.6902?" in out
    assert '"name": "zhu2023_clipmh_nuswide"' in command(capsys, "bench", "recipes", "--json")[1]


def test_a_recipe_runs_on_a_feature_file_and_stands_beside_its_number(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("tr", 120), ("te", 20), ("db", 150)):
        y = rng.integers(0, 4, n)
        arrays |= {f"{k}_{part}": np.eye(4, 10)[y] * 3 + rng.normal(size=(n, 10)) for k in "IT"}
        arrays[f"L_{part}"] = np.eye(4)[y]
    np.savez(tmp_path / "mir.npz", **arrays)
    root, name = tmp_path / "grid", "zhu2023_mvlh_mirflickr25k"
    line = ["bench", "run", name, "--data", tmp_path / "mir.npz", "--out", root, "--bits", "16", "--seeds", 1]
    assert command(capsys, *line)[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)
        summary = summarise(root, "clipmh2023")
    assert summary.results[0].method == "MVLH (published)"
    beside = next(s for s in summary.sections() if s.title == "Beside the published numbers")
    assert beside.table.rows[0][:3] == (name, "16", "0.6541")
    assert beside.table.rows[0][3] == f"{summary.results[0].map:.4f}"
    assert "VGG" in beside.text
    for wrong in (["--bits", "48"], ["--data", tmp_path / "none.npz"]):
        assert command(capsys, *line, *wrong)[0] == 2
    assert command(capsys, "bench", "run", name, "--out", root)[0] == 2


def test_an_unknown_recipe_is_named(tmp_path, capsys):
    code, _, err = command(capsys, "bench", "run", "zhu2023_clipmh_nuswid", "--data", tmp_path)
    assert code == 2
    assert "did you mean 'zhu2023_clipmh_nuswide'?" in err


def test_recipes_run_from_the_official_files_of_their_data_set(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BITFUSE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "grid"
    line = ["bench", "run", "*_mvlh_mirflickr25k", "--data", flickr25k(tmp_path / "mir"), "--out", root]
    with warnings.catch_warnings():  # a copy of 130 pictures is not the published set, and says so
        warnings.simplefilter("ignore", BitfuseWarning)
        assert command(capsys, *line, "--backbone", "pocket", "--bits", "16", "--seeds", 2)[0] == 0
        results = summarise(root, "clipmh2023").results
    assert len(results) == 2
    assert len(by_setting(results)) == 1  # two splits of one data set share a table, whatever their sizes
    assert results[0].dataset == "MIR-Flickr25K (24 labels, 128 rows; NOT the published set)"
    assert [r.seed for r in results] == [0, 1]
