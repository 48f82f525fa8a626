"""Grids: cells on disk, resuming, failures, reports made without training, and the statistics beside the tables."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bitfuse as bf
from bitfuse import Dataset, Samples
from bitfuse.bench import cells, grid, latex, report, significance, stored, tables
from bitfuse.bench.sections import Section
from bitfuse.bench.sources import Splitting
from bitfuse.bench.summary import summarise
from bitfuse.cli import main
from bitfuse.errors import BitfuseWarning, DamagedFile, InputError


def samples(n=240, views=("image", "text"), seed=0, **parts):
    """Rows around six centres, one label each, in a shuffled order of ids."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 6, n)
    made = {v: (rng.normal(size=(6, 12))[y] + 2 * rng.normal(size=(n, 12))).astype(np.float32) for v in views}
    ids = tuple(f"item-{i}" for i in rng.permutation(n))
    return Samples(ids, made, labels=np.eye(6, dtype=bool)[y], label_names=tuple("abcdef"), **parts)


def world(seed=0, **parts):
    whole = samples(**parts)
    return Splitting(n_query=40).datasets(whole, "six", [0, 1])[seed]


def made(root, dataset, *names, n_bits=16, seeds=(0,)):
    key = stored.keep(dataset, cells.datasets_of(root))
    return [cells.Spec(method=m, dataset=key, n_bits=n_bits, seed=s) for s in seeds for m in names]


def command(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    return stop.value.code, *capsys.readouterr()


def ages(root):
    """When each finished cell was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in (root / "cells").glob("*/*/cell.json")}


# --- Data sets --------------------------------------------------------------------------------------------------------


def test_a_data_set_comes_back_as_it_was(tmp_path):
    pictures = [b"one", None, Path("there.png")] * 80
    whole = samples(images=pictures, texts=["a", None, "c"] * 80)
    whole.views["text"][7] = np.nan
    dataset = Splitting(n_query=40, n_train=90).datasets(whole, "six", [0])[0]
    again = stored.load(tmp_path, stored.keep(dataset, tmp_path))
    assert (again.name, again.notes) == (dataset.name, dataset.notes)
    for part in ("train", "query", "gallery"):
        a, b = getattr(dataset, part), getattr(again, part)
        assert a.ids == b.ids
        assert (list(a.images), list(a.texts), a.label_names) == (list(b.images), list(b.texts), b.label_names)
        assert np.array_equal(a.labels, b.labels)
        assert all(np.array_equal(a.views[v], b.views[v], equal_nan=True) for v in a.views)


def test_splits_of_the_same_rows_share_one_file(tmp_path):
    keys = {stored.keep(world(seed), tmp_path) for seed in (0, 1, 0)}
    assert len(keys) == 2
    assert len(list(tmp_path.glob("rows-*"))) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_one_id_with_two_sets_of_features_is_refused(tmp_path):
    dataset = world()
    moved = replace(dataset.train, views={k: v + 1 for k, v in dataset.train.views.items()})
    with pytest.raises(InputError, match="an id has other"):
        stored.keep(Dataset("six", moved, dataset.query, dataset.gallery), tmp_path)
    with pytest.raises(DamagedFile, match="missing or damaged"):
        stored.load(tmp_path, "0" * 16)


def test_every_seed_has_another_split_of_the_same_sizes_under_one_name():
    found = Splitting(labels=("[abc]",)).datasets(samples(), "six", [0, 1, 2])
    assert len({(d.name, len(d.query), len(d.gallery), len(d.train), str(d.notes)) for d in found.values()}) == 1
    assert len({d.query.ids for d in found.values()}) == 3
    assert found[0].query.label_names == ("a", "b", "c")
    assert found[0].gallery.labelled.all()
    with pytest.raises(InputError, match="no label is named like z"):
        Splitting(labels=("z",)).datasets(samples(), "six", [0])


# --- Cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["itq", "cvh", "dcmh", "onehot"])
def test_a_stored_cell_scores_as_the_fitted_method_does(name, tmp_path):
    dataset = world()
    dataset.query.views["text"][3] = np.nan
    parameters = {"epochs": 2} if name == "dcmh" else {}
    spec = replace(made(tmp_path, dataset, name)[0], parameters=parameters)
    assert cells.compute(spec, tmp_path) is None
    (cell,), _ = cells.read_cells(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)
        model = bf.hasher(name, n_bits=16, **parameters).fit(dataset.train.views, dataset.train.labels)
        wanted = bf.evaluate(model, dataset).to_dict()
    got = cell.judge().to_dict()
    assert got["environment"]["seconds"]["fit"] > 0
    for result in (wanted, got):
        result.pop("environment")
    assert set(wanted.pop("notes")) <= set(got.pop("notes"))
    assert got == wanted


def test_without_its_values_a_cell_still_scores_its_codes(tmp_path, monkeypatch):
    (spec,) = made(tmp_path, world(), "itq")
    cells.compute(spec, tmp_path)
    whole = cells.read_cells(tmp_path)[0][0].judge()
    monkeypatch.setattr(cells, "_MOST_BYTES", 0)
    cells.compute(spec, tmp_path)
    bare = cells.read_cells(tmp_path)[0][0].judge()
    assert np.isnan(bare.first.projected_map)
    assert not np.isnan(whole.first.projected_map)
    assert bare.map == whole.map


def test_cells_that_differ_have_other_names():
    one = cells.Spec(method="itq", dataset="d")
    others = [replace(one, **change) for change in (
        {"n_bits": 32}, {"seed": 1}, {"method": "lsh"}, {"preset": "published"}, {"parameters": {"n_iter": 3}},
        {"parameters": {"n_iter": 4}},
    )]  # fmt: skip
    assert len({spec.name for spec in (one, *others)}) == 7


def test_a_cell_of_another_version_is_made_again(tmp_path, monkeypatch):
    (spec,) = made(tmp_path, world(), "lsh")
    assert not cells.finished(spec, tmp_path)
    cells.compute(spec, tmp_path)
    assert cells.finished(spec, tmp_path)
    monkeypatch.setattr(cells, "version", lambda name: "9.9")
    assert not cells.finished(spec, tmp_path)


# --- Grids ------------------------------------------------------------------------------------------------------------


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path):
    specs = made(tmp_path, world(views=("image",)), "cvh", "itq", "lsh")
    done = {d.spec.method: d for d in grid.run(tmp_path, specs, jobs=2)}
    assert len(done) == 3
    assert "cvh" in done
    assert "view" in done["cvh"].error.lower()
    assert done["itq"].error is None
    found, failures = cells.read_cells(tmp_path)
    assert [c.spec.method for c in found] == ["itq", "lsh"]
    assert failures[0].error == done["cvh"].error
    assert "Traceback" in json.loads((specs[0].place(tmp_path) / cells.CARD).read_text())["traceback"]
    before = ages(tmp_path)
    assert [d.spec.method for d in grid.run(tmp_path, specs)] == ["cvh"]  # failed ones are tried again, no others
    assert {k: v for k, v in ages(tmp_path).items() if "cvh" not in k} == {
        k: v for k, v in before.items() if "cvh" not in k
    }


def test_a_cell_that_takes_its_process_with_it_is_recorded(tmp_path, monkeypatch):
    specs = made(tmp_path, world(), "itq", "lsh")
    monkeypatch.setattr(grid.sys, "executable", "/bin/false")
    assert {d.error for d in grid.run(tmp_path, specs, jobs=1)} == {"its process ended with exit code 1"}
    assert len(cells.read_cells(tmp_path)[1]) == 2


def test_two_runs_do_not_write_to_one_grid(tmp_path):
    specs = made(tmp_path, world(), "lsh", "itq")
    first = grid.run(tmp_path, specs, jobs=1)
    next(first)
    with pytest.raises(InputError, match="another run is writing"):
        next(grid.run(tmp_path, specs))
    first.close()
    with pytest.raises(InputError, match="jobs must be"):
        next(grid.run(tmp_path, specs, jobs=0))
    assert len(list(grid.run(tmp_path, specs))) == 1


def workers(mark):
    """The process ids that carry this mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"GRID_TEST={mark}".encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:  # not ours, or gone
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_killed_run_loses_only_the_cells_in_work_and_resumes(tmp_path):
    np.savez(tmp_path / "six.npz", **samples(1200).views, labels=samples(1200).labels)
    root, mark = tmp_path / "grid", f"{os.getpid()}-{tmp_path.name}"
    line = [sys.executable, "-m", "bitfuse", "bench", "run", str(tmp_path / "six.npz"), "--out", str(root)]
    line += ["--method", "lsh", "--method", "itq", "--method", "mah", "--seeds", "6", "--jobs", "2", "--bits", "32"]
    running = subprocess.Popen(line, env={**os.environ, "GRID_TEST": mark}, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(ages(root)) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    while workers(mark) and time.monotonic() < until:
        time.sleep(0.02)
    assert not workers(mark)
    before = ages(root)
    assert 3 <= len(before) < 18
    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"18 cells in {root}, {len(before)} of them finished already" in " ".join(again.stderr.split())
    after = ages(root)
    assert len(after) == 18
    assert before.items() <= after.items()
    assert not list((root / "cells").glob("*/.*"))


# --- Reports ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    for seed in (0, 1):
        for bits in (8, 16):
            for spec in made(
                root, world(seed, texts=[f"words {i}" for i in range(240)]), "lsh", "itq", "cvh", n_bits=bits
            ):
                assert cells.compute(replace(spec, seed=seed), root) is None
    return root


def test_a_report_is_written_from_stored_codes_without_training(finished, tmp_path, capsys):
    before = ages(finished)
    code, out, _ = command(capsys, "bench", "report", finished, "--to", tmp_path, "--title", "Six kinds")
    assert code == 0
    assert "random codes" in out
    page = (tmp_path / "report.html").read_text()
    for words in (
        "Six kinds",
        "ITQ",
        "Which differences are real?",
        "The top of the ranking",
        "What it costs",
        "words 1",
    ):
        assert words in page
    assert page.count("<svg") >= 5
    text = (tmp_path / "report.md").read_text()
    assert "## What it costs" in text
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(lines) == 3 * 2 * 2 * 5  # every one answers all five modes
    by_hand = summarise(finished).results[0]
    first = next(r for r in lines if r["mode"] == "both" and r["method"] == by_hand.method.lower())
    assert {first["bits"], first["seed"]} == {"8", "0"}
    assert float(first["map"]) == by_hand.map
    assert r"\toprule" in (tmp_path / "tables.tex").read_text()
    other = summarise(finished, "ucmfh2023").results[0]
    assert other.protocol.metric == "mAP@50"
    assert other.map != by_hand.map
    assert ages(finished) == before


def test_the_best_method_stands_first_and_seeds_share_a_row(finished):
    results = summarise(finished).results
    table = tables.of_results(results)
    methods = [row[0] for row in table.rows[:6]]
    assert methods[-1] == "LSH"
    assert len(table.rows) == 6 + 3  # features and two floors
    assert "±" in table.rows[0][4]


def test_a_grid_without_a_finished_cell_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="bitfuse bench run DATA"):
        summarise(tmp_path)


def test_the_command_runs_a_grid_and_names_what_is_wrong(tmp_path, capsys):
    np.savez(tmp_path / "six.npz", **samples().views, labels=samples().labels)
    root = tmp_path / "grid"
    line = ["bench", "run", tmp_path / "six.npz", "--out", root, "--seeds", 1, "--jobs", 1]
    line += ["--queries", 30, "--train", 100]
    code, out, _ = command(capsys, *line, "--method", "lsh", "--method", "mvlh:published", "--bits", "8,16")
    assert code == 0
    assert "4 of 4 cells are finished" in out
    (dataset,) = {c.dataset.name: c.dataset for c in cells.read_cells(root)[0]}.values()
    assert (len(dataset.query), len(dataset.train), len(dataset.gallery)) == (30, 100, 210)
    assert command(capsys, *line, "--method", "lhs")[0] == 2
    assert command(capsys, *line, "--bits", "many")[0] == 2
    assert command(capsys, *line, "--seeds", 0)[0] == 2


def test_sections_stand_in_html_and_markdown(tmp_path):
    section = Section(
        "Why?", "One.\n\nTwo <b>.", tables.Table("numbers", ("a", "b"), [("x", "1")]), ("<svg>drawn</svg>",)
    )
    page = report.write_html([], tmp_path / "r.html", sections=[section]).read_text()
    assert "<svg>drawn</svg>" in page
    assert "Two &lt;b&gt;." in page
    assert report.markdown([], [section]) == section.markdown()
    with pytest.raises(InputError):
        report.write_html([], tmp_path / "r.html")


def test_latex_prints_the_best_bold_and_escapes(finished):
    text = latex.booktabs(summarise(finished).results)
    both = text[: text.index(r"\end{table}")]
    assert both.count(r"\textbf{") == both.count(r"\underline{") == 2  # one of each at 8 and at 16 bits
    assert r"8 bits & 16 bits \\" in both
    assert latex.escape("a_b & 5% → ~{}\\") == r"a\_b \& 5\% $\rightarrow$ \textasciitilde{}\{\}\textbackslash{}"


# --- Significance -----------------------------------------------------------------------------------------------------


def test_randomisation_agrees_with_every_sign_pattern():
    rng = np.random.default_rng(3)
    differences = rng.normal(0.4, 1, (3, 9))
    exact = [
        np.mean([abs(np.dot(signs, row)) >= abs(row.sum()) - 1e-12 for signs in itertools.product((-1, 1), repeat=9)])
        for row in differences
    ]
    assert significance.randomised(differences, 20_000) == pytest.approx(exact, abs=0.015)


def test_equal_methods_are_never_told_apart_and_clear_ones_are():
    rng = np.random.default_rng(0)
    values = {f"q{i}": float(v) for i, v in enumerate(rng.random(60))}
    worse = {k: v - 0.1 for k, v in values.items()} | {"q99": 5.0}  # a query of its own does not count
    found = significance.compare({"worse": worse, "one": values, "same": dict(values)})
    assert found["one"].p is None
    assert found["same"].p == 1
    assert found["worse"].p < 0.001
    assert found["worse"].mean == pytest.approx(found["one"].mean - 0.1)
    with pytest.raises(InputError, match="queries that all methods answer"):
        significance.compare({"a": {"x": 1.0}, "b": {"y": 1.0}})


def test_holm_is_the_definition():
    p = [0.2, 0.01, 0.04, 0.03]
    order = sorted(range(4), key=lambda i: p[i])
    wanted, least = [0.0] * 4, 0.0
    for place, i in enumerate(order):
        least = wanted[i] = max(least, min(1, (4 - place) * p[i]))
    assert significance.holm(p) == pytest.approx(wanted)
