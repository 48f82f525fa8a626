"""The command line as a person meets it: what is printed, what is written, which exit code."""

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.cli import main
from bitfuse.data.shapes import write


def run(capsys, *args):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A table of 300 scenes with their pictures."""
    return write(tmp_path_factory.mktemp("world"), 300, seed=5)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Features without pictures: 400 rows around eight centres, one label each."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 8, 400)
    views = {name: rng.normal(size=(8, 16))[y] + 0.4 * rng.normal(size=(400, 16)) for name in ("image", "text")}
    path = tmp_path_factory.mktemp("arrays") / "features.npz"
    np.savez(path, **views, labels=np.eye(8, dtype=bool)[y])
    return path


@pytest.fixture(scope="module")
def shop(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("shops") / "shop"
    with pytest.raises(SystemExit) as stop:
        main(["index", str(world), "--backbone", "pocket", "--out", str(path), "--bits", "32"])
    assert stop.value.code == 0
    return path


def test_fit_and_evaluate_arrays(arrays, tmp_path, capsys):
    model, report = tmp_path / "model", tmp_path / "report.html"
    code, out, _ = run(capsys, "fit", arrays, "--method", "itq", "--bits", 16, "--out", model)
    assert code == 0
    assert "held out" in out
    code, out, _ = run(capsys, "evaluate", model, arrays, "--report", report)
    assert code == 0
    assert "Protocol 'strict'" in out
    assert "random codes" in out
    assert report.read_text().startswith("<!")
    code, out, _ = run(capsys, "evaluate", model, arrays, "--json")
    result = json.loads(out)
    assert result["map"] > 0.6 > result["floors"]["random codes"]
    ids = json.loads((model / "ids.json").read_text())
    assert result["sizes"]["query"] == len(ids["heldout"])


def test_fit_names_the_default_method_and_takes_parameters(arrays, tmp_path, capsys):
    code, out, err = run(capsys, "fit", arrays, "--bits", 8, "--set", "epochs=2", "--out", tmp_path / "m", "--json")
    assert code == 0
    assert "method: clipmh" in err
    assert json.loads(out)["log"]["epochs"] == 2
    assert bf.load(tmp_path / "m").parameters["epochs"] == 2


def test_fit_reads_a_table_and_evaluate_remembers_its_columns(world, tmp_path, capsys):
    model = tmp_path / "model"
    columns = ["--label", "main_shape", "--label", "main_colour"]
    code, _, _ = run(
        capsys, "fit", world, "--backbone", "pocket", "--method", "onehot", "--bits", 16, "--out", model, *columns
    )
    assert code == 0
    assert bf.load(model).sources["image"]["backbone"] == "pocket"
    code, out, _ = run(capsys, "evaluate", model, world, "--json")
    assert code == 0
    assert json.loads(out)["modes"]["image"] is not None


def test_search_by_words_picture_both_and_item(shop, world, capsys):
    code, out, _ = run(capsys, "search", shop, "a large red star", "-k", 3)
    assert code == 0
    assert "distance" in out
    with open(world) as file:
        row = list(csv.DictReader(file))[7]
    picture = world.parent / row["image"]
    code, out, _ = run(capsys, "search", shop, row["text"], "--image", picture, "-k", 3, "--json")
    hits = json.loads(out)
    assert code == 0
    assert row["id"] in [hit["id"] for hit in hits]
    code, out, _ = run(capsys, "search", shop, "--like", row["id"], "-k", 3, "--json")
    assert code == 0
    code, out, _ = run(capsys, "search", shop, "star", "--where", "price < 20", "--json")
    assert code == 0
    assert all(hit["item"]["price"] < 20 for hit in json.loads(out))


def test_a_second_process_answers(shop):
    command = [sys.executable, "-m", "bitfuse", "search", str(shop), "blue circle", "-k", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)) == 2
    assert done.stderr == ""


def test_index_with_a_model_and_out_that_exists(world, shop, tmp_path, capsys):
    model = tmp_path / "model"
    assert run(capsys, "fit", world, "--backbone", "pocket", "--method", "lsh", "--bits", 24, "--out", model)[0] == 0
    code, out, _ = run(capsys, "index", world, "--model", model, "--out", tmp_path / "shop", "--json")
    assert code == 0
    assert json.loads(out)["added"] == 300
    code, _, err = run(capsys, "index", world, "--model", model, "--out", shop)
    assert code == 5
    assert "exists" in err


def test_pictures_without_texts_are_found_by_words(world, tmp_path, capsys):
    code, _, err = run(capsys, "index", world.parent / "images", "--backbone", "pocket", "--out", tmp_path / "shop")
    assert code == 0
    assert "itq" in err
    code, out, _ = run(capsys, "search", tmp_path / "shop", "a large red star", "--json", "-k", 5)
    assert code == 0
    assert len(json.loads(out)) == 5


def test_keeping_a_collection(shop, world, tmp_path, capsys):
    copy = tmp_path / "copy"
    assert run(capsys, "backup", shop, copy)[0] == 0
    code, out, _ = run(capsys, "delete", copy, "shape-000007", "nobody")
    assert (code, "1 deleted, 1 not there; 299 items" in out) == (0, True)
    code, out, _ = run(capsys, "add", copy, world, "--json")
    report = json.loads(out)
    assert (report["added"], report["items"]) == (1, 300)
    assert {reason for _, reason in report["skipped"]} == {"unchanged"}
    assert run(capsys, "compact", copy)[0] == 0
    code, out, _ = run(capsys, "stats", copy, "--json")
    assert json.loads(out)["items"] == 300
    assert run(capsys, "stats", copy)[0] == 0
    assert run(capsys, "verify", copy)[0] == 0
    code, out, _ = run(capsys, "export", copy, tmp_path / "items.parquet")
    assert (code, (tmp_path / "items.parquet").is_file()) == (0, True)
    model = tmp_path / "model"
    assert run(capsys, "fit", world, "--backbone", "pocket", "--method", "itq", "--bits", 16, "--out", model)[0] == 0
    assert run(capsys, "reencode", copy, model)[0] == 0
    assert run(capsys, "search", copy, "red star", "--image", world.parent / "images" / "shape-000003.png")[0] == 0
    (copy / "items.db").write_bytes(b"noise")
    assert run(capsys, "verify", copy)[0] == 3


def test_methods_lists_every_name(capsys):
    code, out, _ = run(capsys, "methods")
    assert code == 0
    assert all(name in out for name in bf.hashers())
    headings = ("name", "year", "supervised", "online", "missing", "views", "spaces", "cost", "at scale")
    assert all(heading in out for heading in headings)  # none is squeezed out of 80 columns
    assert "fused, image," in out
    code, out, _ = run(capsys, "methods", "--json")
    assert [row["name"] for row in json.loads(out)] == bf.hashers()


def one_line(err, *words):
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    assert all(word in lines[0] for word in words), lines
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--label", "colour"], 2, ["'colour'", "main_colour"]),
        (["--bits", "0", "--method", "itq"], 2, ["1 to 4096"]),
        (["--method", "clipmhh"], 2, ["did you mean 'clipmh'"]),
        (["--method", "itq", "--set", "iterations=3"], 2, ["iterations", "n_iter"]),
        (["--method", "itq", "--set", "n_iter"], 2, ["name=value"]),
        (["--backbone", "somebody/unknown-clip"], 4, ["somebody/unknown-clip", "--backbone pocket"]),
    ],
)
def test_bad_options_leave_no_model(world, tmp_path, capsys, options, code, words):
    backbone = [] if "--backbone" in options else ["--backbone", "pocket"]
    got, _, err = run(capsys, "fit", world, "--out", tmp_path / "model", *backbone, *options)
    assert got == code
    one_line(err, *words)
    assert not list(tmp_path.iterdir())


def test_the_default_backbone_is_named_when_its_weights_are_missing(world, tmp_path, capsys):
    code, _, err = run(capsys, "index", world, "--out", tmp_path / "shop")
    assert code == 4
    one_line(err, "openai/clip-vit-base-patch32", "--backbone pocket")
    assert not list(tmp_path.iterdir())


def test_bad_data_is_named(world, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, "index", tmp_path / "empty", "--backbone", "pocket", "--out", tmp_path / "shop")
    assert code == 2
    one_line(err, "empty")
    (tmp_path / "data.pkl").write_bytes(pickle.dumps([1, 2]))
    code, _, err = run(capsys, "fit", tmp_path / "data.pkl", "--out", tmp_path / "model")
    assert code == 2
    one_line(err, "data.pkl")
    np.savez(tmp_path / "short.npz", image=np.zeros((9, 4)), labels=np.ones((8, 2)))
    code, _, err = run(capsys, "fit", tmp_path / "short.npz", "--out", tmp_path / "model")
    assert code == 2
    one_line(err, "8", "9")
    (tmp_path / "out.csv").write_text("id,image\na,../secret.png\n")
    code, _, err = run(capsys, "index", tmp_path / "out.csv", "--backbone", "pocket", "--out", tmp_path / "shop")
    assert code == 2
    one_line(err, "../secret.png")
    code, _, err = run(capsys, "fit", tmp_path / "nothing.csv", "--out", tmp_path / "model")
    assert code == 2
    assert not (tmp_path / "shop").exists()
    assert not (tmp_path / "model").exists()


def test_a_truncated_picture_among_good_ones_is_reported_and_skipped(world, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for picture in sorted((world.parent / "images").iterdir())[:60]:
        (folder / picture.name).write_bytes(picture.read_bytes())
    (folder / "broken.png").write_bytes((folder / picture.name).read_bytes()[:200])
    code, out, err = run(
        capsys, "index", folder, "--backbone", "pocket", "--bits", 8, "--out", tmp_path / "shop", "--json"
    )
    assert code == 0
    assert json.loads(out)["added"] == 60
    assert "broken.png" in err


def test_a_damaged_model_has_its_own_exit_code(arrays, tmp_path, capsys):
    model = tmp_path / "model"
    assert run(capsys, "fit", arrays, "--method", "lsh", "--bits", 8, "--out", model)[0] == 0
    (model / "weights.safetensors").write_bytes(b"\0" * 64)
    code, _, err = run(capsys, "evaluate", model, arrays)
    assert code == 3
    one_line(err, "weights.safetensors")


def test_a_text_of_ten_thousand_words_is_cut_and_answered(shop, capsys):
    code, out, _ = run(capsys, "search", shop, "red star " * 5000, "--json", "-k", 1)
    assert code == 0
    assert len(json.loads(out)) == 1


def test_a_search_for_nothing_says_what_to_give(shop, capsys):
    code, _, err = run(capsys, "search", shop)
    assert code == 2
    one_line(err, "text")
    code, _, err = run(capsys, "search", shop, "star", "--where", "prize < 3")
    assert code == 2
    one_line(err, "prize")
    code, _, err = run(capsys, "search", Path("no-such-shop"), "star")
    assert code in (2, 5)
    one_line(err, "no-such-shop")


def test_the_version(capsys):
    code, out, _ = run(capsys, "--version")
    assert (code, out.strip()) == (0, f"bitfuse {bf.__version__}")
