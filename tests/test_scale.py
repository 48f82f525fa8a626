"""Training at scale: features on disk, what each method does with them, and several processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import bitfuse as bf
from bitfuse.cli import app, register
from bitfuse.data.stored import StoredArray, StoredSamples
from bitfuse.errors import BitfuseError, BitfuseWarning, DamagedFile, InputError, MissingView, UnknownName
from bitfuse.hashers import _views, hasher_class
from bitfuse.hashers._inputs import learn_scaling
from bitfuse.hashers._views import as_batch
from bitfuse.pipeline import processes as processes_module
from bitfuse.pipeline import training
from bitfuse.pipeline.processes import fit_in_processes, joined
from bitfuse.pipeline.spool import holds_features, spool

N, KINDS = 300, 4
RNG = np.random.default_rng(5)
KIND = RNG.integers(0, KINDS, N)
VIEWS = {
    name: (RNG.normal(size=(KINDS, d))[KIND] + 0.6 * RNG.normal(size=(N, d))).astype(np.float16)
    for name, d in (("image", 12), ("text", 12))
}
LABELS = np.eye(KINDS, dtype=bool)[KIND]
SMALL = {
    "bsth": {"concept": 8, "hidden": 16, "prototype_epochs": 5},
    "fgcmh": {"anchors": 20, "hidden": 16},
    "dcmh": {"hidden": 16, "columns": 64},
    "dmmvh": {"hidden": 16, "width": 8},
    "ucch": {"hidden": 32, "negatives": 64},
    "djsrh": {"hidden": 32},
}
STREAM = ["bsth", "clipmh", "dcmh", "djsrh", "dmmvh", "fgcmh", "ucch"]


def write(folder, rows=None, *, files=3, labels=True, **columns):
    """Shards as a user may write them, float16, some rows without a text."""
    rows = np.arange(N) if rows is None else rows
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(rows, files)):
        table = {"id": [f"item-{i}" for i in part]}
        if labels:
            table["kind"] = [f"k{KIND[i]}" for i in part]
        for name, x in VIEWS.items():
            lists = [None if name == "text" and i % 9 == 0 and columns.get("gaps") else x[i] for i in part]
            length = -1 if columns.get("gaps") else x.shape[1]  # older versions of Arrow write no nulls of a fixed one
            table[f"view_{name}"] = pa.array(lists, pa.list_(pa.float16(), length))
        pq.write_table(pa.table(table), folder / f"shard-{number:06d}.parquet", row_group_size=50)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shards") / "whole")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(_views, "BLOCK", 64)


def quick(name, **parameters):
    trained = {"epochs": 2} if name in STREAM else {}
    return bf.hasher(name, **{"n_bits": 8, **trained, **SMALL.get(name, {}), **parameters})


def fitted(model, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)  # two epochs of few rows teach little
        return model.fit(*arguments, **options)


def values(model):
    space = model.spaces[0]
    return model.project({k: v for k, v in VIEWS.items() if space in ("fused", k)}, space)


def test_rows_on_disk_are_the_rows_that_were_written(shards):
    with spool(shards, labels="kind") as samples:
        assert isinstance(samples, StoredSamples)
        assert samples.ids == tuple(f"item-{i}" for i in range(N))
        assert samples.label_names == ("k0", "k1", "k2", "k3")
        np.testing.assert_array_equal(samples.labels, LABELS)
        for name, x in VIEWS.items():
            np.testing.assert_array_equal(samples.views[name], x.astype(np.float32))
            chosen = np.array([7, 3, 4, 5, 299, 3])
            np.testing.assert_array_equal(samples.views.arrays[name][chosen], x[chosen].astype(np.float32))
            assert len(samples.views.arrays[name]) == N
        folder = samples.views.arrays["image"].path.parent
        assert folder.parent == shards.parent
    assert not folder.exists()


def test_views_that_rows_or_whole_shards_lack(tmp_path):
    folder = write(tmp_path / "gaps", gaps=True)
    first = pq.read_table(folder / "shard-000000.parquet").drop_columns(["view_text"])
    pq.write_table(first, folder / "shard-000000.parquet")
    last = pq.read_table(folder / "shard-000002.parquet")
    lists = [[float("nan")] * 12 if i == 4 else row for i, row in enumerate(last["view_image"].to_pylist())]
    column = pa.array(lists, pa.list_(pa.float32()))  # neither fixed in length nor float16: as good
    pq.write_table(last.set_column(last.schema.get_field_index("view_image"), "image", column),
                   folder / "shard-000002.parquet")  # fmt: skip
    with spool(folder, labels="kind", scratch=tmp_path) as samples:
        lacks = np.arange(N) % 9 == 0
        lacks[:100] = True
        np.testing.assert_array_equal(~samples.views.masks["text"], lacks)
        assert np.flatnonzero(~samples.views.masks["image"]).tolist() == [204]
        assert np.isnan(samples.views["text"][lacks]).all()
        np.testing.assert_array_equal(samples.views["text"][~lacks], VIEWS["text"][~lacks].astype(np.float32))
        in_memory = dict(samples.views)
        np.testing.assert_array_equal(samples.complete, ~lacks & (np.arange(N) != 204))
        on_disk, there = fitted(quick("clipmh"), samples.views, LABELS), fitted(quick("clipmh"), in_memory, LABELS)
        np.testing.assert_array_equal(values(on_disk), values(there))
        with pytest.raises(MissingView, match="'image' is missing in 1 row"):
            quick("dcmh").fit(samples.views, LABELS)


@pytest.mark.parametrize("name", [*STREAM, "fomh", "lsh"])
def test_methods_that_read_batches_learn_the_same_from_disk(name, shards):
    known = LABELS.copy()
    known[::10] = False  # rows without a label are left out on both ways
    with spool(shards) as samples:
        on_disk = fitted(quick(name, **({"anchors": 50} if name == "fomh" else {})), samples.views, known)
    there = fitted(on_disk.clone(), VIEWS, known)
    np.testing.assert_array_equal(values(on_disk), values(there))
    way = {"fomh": "chunks", "lsh": "statistics"}.get(name, "stream")
    assert on_disk.at_scale == on_disk.log["at_scale"]["way"] == way
    rows = int(known.any(axis=1).sum()) if on_disk.supervised else N
    assert (on_disk.log["rows"], on_disk.log["at_scale"]["rows"]) == (rows, rows)
    assert "at_scale" not in there.log
    np.testing.assert_array_equal(on_disk.novelty(VIEWS), there.novelty(VIEWS))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("pcarr", {}), ("itq", {}), ("itq", {"aligned": True, "rotation_from": "image"}), ("cvh", {"rotate": False})],
)
def test_sums_over_blocks_are_those_over_all_rows(name, parameters, shards):
    with spool(shards) as samples:
        on_disk = fitted(quick(name, **parameters), samples.views)
    there = fitted(on_disk.clone(), VIEWS)  # a rotation by rounds may turn rounding into other bits: cvh is without
    assert on_disk.at_scale == "statistics"
    z, expected = values(on_disk), values(there)
    sure = np.abs(expected) > 1e-4
    assert sure.mean() > 0.99
    np.testing.assert_array_equal((z > 0)[sure], (expected > 0)[sure])
    np.testing.assert_allclose(z, expected, atol=1e-5)


def test_itq_centres_on_all_rows_and_turns_by_the_sample(tmp_path):
    with spool(write(tmp_path / "whole"), sample=60) as samples:
        model = fitted(quick("itq"), samples.views)
        sampled = samples.views.sampled()
    batch = as_batch(VIEWS)
    scaling = learn_scaling(batch, "centred")
    for view in VIEWS:
        np.testing.assert_allclose(model._fitted["state"][f"mean.{view}"], scaling[f"mean.{view}"])  # of all rows
    assert model.log["at_scale"] | {"meaning": ""} == {"way": "statistics", "rows": N, "sampled": 60, "meaning": ""}
    assert len(sampled) == 60


def test_the_sample_is_drawn_by_hash_of_id_alone(shards, tmp_path):
    order = RNG.permutation(N)
    other = write(tmp_path / "shuffled", order, files=2)
    with spool(shards, sample=40) as first, spool(other, sample=40) as second:
        rows = [first.views.sampled(), second.views.sampled()]
        assert {first.ids[i] for i in rows[0]} == {second.ids[i] for i in rows[1]}
        assert (np.diff(rows[0]) > 0).all()
        fewer = first.take(np.arange(N) % 2 == 0)
        kept = {fewer.ids[i] for i in fewer.views.sampled()}
        assert {first.ids[i] for i in rows[0] if i % 2 == 0} <= kept
        model = fitted(quick("mfh", anchors=20), first.views)
        there = fitted(model.clone(), {k: v[rows[0]] for k, v in VIEWS.items()})
    np.testing.assert_array_equal(values(model), values(there))
    assert (model.log["rows"], model.log["at_scale"]["sampled"], model.log["at_scale"]["way"]) == (N, 40, "sample")
    with pytest.raises(InputError, match="sample must be"), spool(shards, sample=0):
        pass


def test_every_method_says_how_it_learns_at_scale():
    ways = {name: hasher_class(name).at_scale for name in bf.hashers()}
    assert {name for name, way in ways.items() if way == "stream"} == set(STREAM)
    assert {name for name, way in ways.items() if way == "statistics"} == {"cvh", "itq", "lsh", "pcarr"}
    assert {name for name, way in ways.items() if way == "chunks"} == {"fomh"}


# ---- what cannot be read


def refused(folder, error, match, **options):
    before = set(folder.parent.iterdir())
    with pytest.raises(error, match=match), spool(folder, **options):
        pass
    assert set(folder.parent.iterdir()) == before  # nothing is left behind


def test_shards_that_do_not_fit_together_are_refused(tmp_path):
    folder = write(tmp_path / "a")
    third = folder / "shard-000002.parquet"
    whole = pq.read_table(third)
    place = whole.schema.get_field_index("view_image")

    def changed(lists, kind):
        pq.write_table(whole.set_column(place, "view_image", pa.array(lists, kind)), third)

    lists = whole["view_image"].to_pylist()
    changed([row[:7] for row in lists], pa.list_(pa.float16(), 7))
    refused(folder, InputError, "has 7 columns, in the shards before it 12")
    changed([row[:7] for row in lists], pa.list_(pa.float32()))
    refused(folder, InputError, "has 7 columns, in the shards before it 12")
    changed([row[: 7 + (i == 3)] for i, row in enumerate(lists)], pa.list_(pa.float32()))
    refused(folder, InputError, "give all the same")
    changed([[np.inf, *row[1:]] if i == 3 else row for i, row in enumerate(lists)], pa.list_(pa.float32(), 12))
    refused(folder, InputError, "NaN or infinite values in row 203")
    pq.write_table(whole.drop_columns(["kind"]), third)
    refused(folder, InputError, "no column 'kind'", labels="kind")
    pq.write_table(whole.drop_columns(["view_image", "view_text"]), third)
    refused(folder, InputError, "100 rows have no view at all, the first is 'item-200'")
    pq.write_table(pq.read_table(folder / "shard-000000.parquet"), third)
    refused(folder, InputError, "100 ids occur more than once")
    third.write_bytes(third.read_bytes()[:-20])
    refused(folder, DamagedFile, "not a readable Parquet file")


def test_what_is_named_must_be_there(shards, tmp_path, monkeypatch):
    refused(shards, UnknownName, "column 'colour'", labels="colour")
    refused(shards, UnknownName, "column 'sku'", id="sku")
    refused(shards, UnknownName, "view 'audio'", views=["audio"])
    refused(shards, InputError, "no folder that can be written to", scratch=tmp_path / "none")
    assert not holds_features(tmp_path)
    refused(tmp_path, InputError, "no directory of shards")
    pq.write_table(pa.table({"id": ["a"], "price": [1.0]}), tmp_path / "a.parquet")
    refused(tmp_path, InputError, "no column of lists of floats")
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and type("U", (), {"free": 10})())
    refused(shards, InputError, "the features take .* name another with scratch=")


def manifest(folder, *, complete=True, stored="float16"):
    from bitfuse.pipeline.disk import sha256_of

    records = [{"file": f.name, "sha256": sha256_of(f)} for f in sorted(folder.glob("*.parquet"))]
    facts = {"kind": "shards", "format": 1, "complete": complete, "stored_views": stored, "shards": records,
             "views": {"image": 12, "text": 12}, "features": {"image": {"backbone": "some"}, "text": {}}}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(facts))


def test_a_directory_that_encode_wrote_is_read_by_its_manifest(tmp_path):
    folder = write(tmp_path / "codes")
    manifest(folder, complete=False)
    refused(folder, InputError, "is not finished")
    manifest(folder, stored=None)
    refused(folder, InputError, "codes without features; encode with --views float16")
    manifest(folder)
    with spool(folder) as samples:
        assert samples.sources == {"image": {"backbone": "some"}, "text": {}}
        assert samples.labels is None
        with pytest.raises(InputError, match="supervised and needs labels"):
            quick("clipmh").fit(samples.views, samples.labels)
    file = folder / "shard-000001.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    refused(folder, DamagedFile, "missing or changed")


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path):
    np.zeros((4, 3), np.float32).tofile(tmp_path / "rows")
    with pytest.raises(DamagedFile, match="ends before row 5"):
        StoredArray(tmp_path / "rows", 3, np.dtype(np.float32))[np.array([0, 5])]


# ---- the command


def command(*arguments):
    register()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)
        return CliRunner().invoke(app, ["fit", *map(str, arguments)])


def test_fit_takes_a_folder_of_shards(shards, tmp_path):
    done = command(shards, "--label", "kind", "--bits", 8, "--set", "epochs=2", "--sample", 50, "--out", tmp_path / "m")
    assert done.exit_code == 0, done.output
    assert "method: clipmh" in done.output
    assert "50 of" in done.output
    model = bf.load(tmp_path / "m")
    assert model.log["at_scale"]["sampled"] == 50
    ids = json.loads((tmp_path / "m" / "ids.json").read_text())
    assert model.log["rows"] == len(ids["train"]) == N - len(ids["heldout"])
    with spool(shards, labels="kind", sample=50) as samples:
        train, _ = training.hold_out(samples)
        choice = training.Choice("clipmh", {"epochs": 2}, "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BitfuseWarning)
            again = training.fit(train, choice, n_bits=8)
        np.testing.assert_array_equal(values(again), values(model))
        pairs = training.fit(samples, training.Choice("ucmfh", {"epochs": 1, "hidden": 16, "width": 16}, ""), n_bits=8)
        assert pairs.log["at_scale"]["sampled"] == 50
    for more, said in (
        (["--backbone", "pocket"], "nothing to encode"),
        (["--image-column", "x"], "cannot be named"),
        (["--sweep", "--method", "lsh"], "leave --sweep out"),
        (["--processes", 0], "processes must be"),
    ):
        done = command(shards, "--out", tmp_path / "n", *more)
        assert isinstance(done.exception, InputError), more
        assert said in str(done.exception)
    done = command("shapes", "--sample", 5, "--out", tmp_path / "n")
    assert "are for shards of features" in str(done.exception)
    assert not (tmp_path / "n").exists()


# ---- several processes

OURS = """
import json, sys
import numpy as np, torch
from bitfuse.hashers import _parallel, _train
from bitfuse.pipeline.processes import joined

folder = sys.argv[1]
x = torch.from_numpy(np.load(folder + "/x.npy"))
target = torch.from_numpy(np.load(folder + "/y.npy"))
batches = []
with joined("cpu", rendezvous=f"file://{folder}/meeting"):
    rng = np.random.default_rng(0)
    with _train.seeded(0, "cpu"):
        network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
        before = {k: v.clone() for k, v in network.state_dict().items()}

        def loss(rows):
            batches.append(rows.tolist())
            known, found = _parallel.remembered(rows, x[rows])
            assert torch.equal(found, x[known]) and len(known) in (10, 11), known
            return ((network(x[rows]) - target[rows]) ** 2).mean()

        schedule = _train.Schedule(epochs=1, batch_size=10, learning_rate=0.1, patience=1)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        rank = _parallel.current().rank
        log = _train.train(network, loss, np.arange(21), schedule, rng, lambda: 7.0 + rank, optimiser=optimiser)
        noise = [torch.rand(1).item(), rng.random()]
torch.save([before, network.state_dict()], f"{folder}/weights-{rank}.pt")
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump([batches, log, noise], file)
"""


def test_two_processes_step_by_the_mean_of_their_gradients(tmp_path):
    torch = pytest.importorskip("torch")
    x, y = RNG.normal(size=(21, 3)).astype(np.float32), RNG.normal(size=(21, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "ours.py").write_text(OURS)
    workers = [
        subprocess.Popen(
            [sys.executable, tmp_path / "ours.py", tmp_path],
            env=os.environ | {"RANK": str(r), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        )
        for r in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    (mine, log, noise), (other, other_log, other_noise) = (
        json.loads((tmp_path / f"{r}.json").read_text()) for r in range(2)
    )
    assert log == other_log
    assert log["validation"] == [7.0]  # what the first process found
    assert noise[0] != other_noise[0]
    assert noise[1] != other_noise[1]
    assert sorted(row for batch in mine + other for row in batch) == list(range(21))
    assert [(len(a), len(b)) for a, b in zip(mine, other)] == [(6, 5), (5, 5)]
    saved = [torch.load(tmp_path / f"weights-{r}.pt", weights_only=True) for r in range(2)]
    before, after = saved[0]
    for name, tensor in after.items():
        assert torch.equal(tensor, saved[1][1][name]), name
    networks = [
        torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1)) for _ in "ab"
    ]
    total = 0.0
    for network in networks:  # each with running means of its own rows
        network.load_state_dict(before)
    for parts in zip(mine, other):
        m, gradients = sum(map(len, parts)), []
        for network, rows in zip(networks, parts):
            network.zero_grad()
            value = ((network(torch.from_numpy(x[rows])) - torch.from_numpy(y[rows])) ** 2).mean()
            value.backward()
            total += value.item() * len(rows)
            gradients.append([p.grad * len(rows) / m for p in network.parameters()])
        with torch.no_grad():
            for network in networks:
                for p, a, b in zip(network.parameters(), *gradients):
                    p -= 0.1 * (a + b)
    assert log["losses"][0] == pytest.approx(total / 21, rel=1e-5)
    states = [network.state_dict() for network in networks]
    for name, tensor in after.items():
        expected = (states[0][name] + states[1][name]) / 2
        torch.testing.assert_close(tensor, expected.to(tensor.dtype), rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_processes_train_one_model_and_tell_their_warnings(shards):
    with spool(shards, labels="kind") as samples:
        choice = training.Choice("clipmh", {"epochs": 3}, "")
        with pytest.warns(BitfuseWarning, match="distinct codes for 4 labels"):
            model = training.fit(samples, choice, n_bits=1, processes=2)
    assert model.log["rows"] == N
    assert model.log["epochs"] >= 1
    assert model.widths == {"image": 12, "text": 12}
    for processes in (0, 1.5, True):
        with pytest.raises(InputError, match="processes must be"):
            training.fit(samples, choice, processes=processes)
    with pytest.raises(InputError, match="does not learn by batches"):
        training.fit(samples, training.Choice("itq", {}, ""), processes=2)


@pytest.mark.slow
def test_what_a_process_refuses_is_raised_here(tmp_path):
    with pytest.raises(InputError, match="too small for 2 processes"):
        fit_in_processes(quick("clipmh", batch_size=3, validation=0.0), VIEWS, LABELS, processes=2)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_is_an_error_and_leaves_nothing(rank, shards, monkeypatch, tmp_path):
    started = []
    begin = subprocess.Popen

    def popen(*arguments, **options):
        started.append(begin(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(processes_module.subprocess, "Popen", popen)
    monkeypatch.setattr(processes_module.tempfile, "tempdir", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()

    def kill():
        while len(started) < 2 or not list((tmp_path / "own").glob("*/meeting")):
            time.sleep(0.02)
        os.kill(started[rank].pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with spool(shards, labels="kind", scratch=tmp_path) as samples:
        choice = training.Choice("clipmh", {"epochs": 100_000, "validation": 0.0}, "")
        with pytest.raises(BitfuseError, match=f"process {rank} of 2 was killed by SIGKILL.*nothing was written"):
            training.fit(samples, choice, n_bits=8, processes=2)
    assert [worker.poll() is not None for worker in started] == [True, True]
    assert list((tmp_path / "own").iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


PARENT = """
import numpy as np
import bitfuse as bf
from bitfuse.pipeline.processes import fit_in_processes

rng = np.random.default_rng(0)
model = bf.hasher("clipmh", n_bits=8, epochs=100_000, validation=0.0)
views, labels = {"image": rng.normal(size=(300, 8))}, np.eye(4, dtype=bool)[rng.integers(0, 4, 300)]
fit_in_processes(model, views, labels, processes=2)
"""


@pytest.mark.slow
def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], env=os.environ | {"TMPDIR": str(tmp_path)})

    def children():
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line, state = (folder / "cmdline").read_bytes(), (folder / "stat").read_text().rsplit(") ", 1)[1][0]
            except OSError:
                continue
            if str(tmp_path).encode() in line and b"bitfuse.pipeline.processes" in line and state != "Z":
                found.append(int(folder.name))
        return found

    until = time.monotonic() + 60
    while not (len(children()) == 2 and list(tmp_path.glob("*/meeting"))) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(children()) == 2
    parent.kill()
    parent.wait()
    while children() and time.monotonic() < until:
        time.sleep(0.05)
    assert children() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAM)
def test_every_deep_method_trains_in_processes(name, shards):
    with spool(shards, labels="kind") as samples, warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)
        model = fit_in_processes(quick(name, epochs=6), samples.views, samples.labels, processes=2)
        again = fit_in_processes(quick(name, epochs=6), samples.views, samples.labels, processes=2)
    np.testing.assert_array_equal(values(model), values(again))
    alone = fitted(quick(name, epochs=6), VIEWS, LABELS)
    assert model.log["losses"][-1] < model.log["losses"][0]

    def score(one):
        space = one.spaces[0]
        codes = one.encode({k: v for k, v in VIEWS.items() if space in ("fused", k)}, space)
        return bf.score(codes, codes, LABELS, LABELS).map

    assert score(model) > score(alone) - 0.1


RUN = """
import json, os, sys, warnings
import numpy as np
import bitfuse as bf
from bitfuse.pipeline.processes import joined

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
kind = rng.integers(0, 4, 300)
views = {"image": rng.normal(size=(4, 8))[kind] + rng.normal(size=(300, 8)) / 2}
with joined() as device:
    model = bf.hasher("clipmh", n_bits=8, epochs=2).fit(views, np.eye(4, dtype=bool)[kind], device=device)
if os.environ["RANK"] == "0":
    model.save(sys.argv[1])
"""


@pytest.mark.slow
def test_torchrun_starts_the_processes_too(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run([*torchrun, tmp_path / "run.py", tmp_path / "model"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert bf.load(tmp_path / "model").log["epochs"] == 2


def test_without_torchrun_the_error_says_how(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="run this under torchrun, or use processes="), joined():
        pass
