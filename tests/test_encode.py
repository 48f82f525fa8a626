"""Streaming encode: every kind of source, shards that resume, bad rows reported, and shards into collections."""

import csv
import io
import json
import os
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.fake_backbone import FakeBackbone, sources
from typer.testing import CliRunner

import bitfuse as bf
from bitfuse.cli import app, register
from bitfuse.errors import CollectionError, DamagedFile, InputError, UnknownFormat, UnknownName
from bitfuse.features.images import open_image
from bitfuse.pipeline import coder as coder_module
from bitfuse.pipeline import shards as shards_module
from bitfuse.pipeline.coder import Coder
from bitfuse.pipeline.shards import Shards, encode
from bitfuse.pipeline.sources import Roles, rows, survey
from bitfuse.search.collection import Collection

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (220, 220, 20)}
NAMES = list(COLOURS)


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """Every model here records the fake backbone, which is found by its name."""
    made = []

    def backbone(name, **_):
        assert name == "fake"
        made.append(FakeBackbone())
        return made[-1]

    monkeypatch.setattr("bitfuse.features.backbone", backbone)
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    encoder = FakeBackbone()
    texts = [f"{a} {b} {i % 7}" for i in range(30) for a in NAMES for b in NAMES]
    views = {"text": encoder.encode("text", texts)}
    views["image"] = views["text"] + np.random.default_rng(0).normal(size=views["text"].shape).astype(np.float32)
    path = tmp_path_factory.mktemp("model") / "m"
    bf.hasher("itq", n_bits=24, aligned=True).fit(views, sources=sources(encoder)).save(path)
    return path


def png(i):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), tuple(c ^ (i % 16) for c in COLOURS[NAMES[i % 4]])).save(buffer, "PNG")
    return buffer.getvalue()


def item(i):
    return {"id": f"p{i:04d}", "image": png(i), "text": f"{NAMES[i % 4]} {NAMES[i // 4 % 4]} {i}", "price": i * 3}


def write_table(folder, n, suffix="csv"):
    (folder / "pics").mkdir(parents=True, exist_ok=True)
    listed = [item(i) for i in range(n)]
    for one in listed:
        (folder / "pics" / f"{one['id']}.png").write_bytes(one["image"])
        one["image"] = f"pics/{one['id']}.png"
    path = folder / f"items.{suffix}"
    if suffix == "csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, listed[0])
            writer.writeheader()
            writer.writerows(listed)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in listed))
    else:
        pq.write_table(pa.Table.from_pylist(listed), path, row_group_size=7)
    return path


def write_tar(path, n):
    with tarfile.open(path, "w") as tar:
        for i in range(n):
            one = item(i)
            files = {"png": one["image"], "txt": one["text"].encode(), "json": json.dumps({"price": i * 3}).encode()}
            for kind, data in files.items():
                member = tarfile.TarInfo(f"{one['id']}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def coded(path):
    return {one["id"]: one for one in Shards(path).items()}


def expected(model, n):
    """The slow twin: item by item, no shards, no threads."""
    hasher, encoder = bf.load(model), FakeBackbone()
    out = {}
    for one in map(item, range(n)):
        views = {
            "image": encoder.encode("image", [open_image(one["image"])]),
            "text": encoder.encode("text", [one["text"]]),
        }
        out[one["id"]] = hasher.encode(views).packed.tobytes()
    return out


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "tar"])
@pytest.mark.parametrize("shard_rows", [1000, 10])
def test_every_kind_of_source_gives_the_codes_of_one_by_one(tmp_path, model, suffix, shard_rows):
    n = 53
    source = write_tar(tmp_path / "items.tar", n) if suffix == "tar" else write_table(tmp_path, n, suffix)
    report = encode([source], model, tmp_path / "codes", shard_rows=shard_rows, views=True)
    assert (report.rows, report.coded, report.skipped, report.shards) == (n, n, 0, -(-n // shard_rows))
    found = coded(tmp_path / "codes")
    assert {name: one["code"] for name, one in found.items()} == expected(model, n)
    for i, one in enumerate(found.values()):
        assert list(found)[i] == f"p{i:04d}"
        assert one["text"] == item(i)["text"]
        assert one["price"] == i * 3
        assert one["image"] == (None if suffix == "tar" else str(tmp_path / "pics" / f"p{i:04d}.png"))
        row = FakeBackbone().encode("text", [one["text"]])[0]
        np.testing.assert_allclose(np.asarray(one["views"]["text"], np.float32), row, rtol=1e-3, atol=1e-3)
    manifest = Shards(tmp_path / "codes").manifest
    assert manifest["complete"]
    assert manifest["attributes"] == {"price": "int"}
    assert [r["rows"] for r in manifest["shards"]] == [[at, min(at + shard_rows, n)] for at in range(0, n, shard_rows)]


def test_a_folder_and_several_sources_in_their_order(tmp_path, model):
    for i, name in enumerate(["b/2.png", "a.png", "b.png", "b/1.png"]):
        path = tmp_path / "pics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    (tmp_path / "pics" / "notes.txt").write_text("no picture")
    (tmp_path / "more").mkdir()
    write_tar(tmp_path / "more" / "1.tar", 3)
    write_tar(tmp_path / "more" / "0.tar", 2)
    encode([tmp_path / "pics", tmp_path / "more"], model, tmp_path / "codes", shard_rows=4)
    ids = [one["id"] for one in Shards(tmp_path / "codes").items()]
    assert ids == ["a.png", "b/1.png", "b/2.png", "b.png", "p0000", "p0001", "p0000", "p0001", "p0002"]
    folders = [one["folder"] for one in Shards(tmp_path / "codes").items()]
    assert folders[:5] == ["pics", "b", "b", "pics", None]


def test_any_shard_can_be_read_without_those_before_it(tmp_path):
    paths = [write_table(tmp_path / kind, 23, kind) for kind in ("csv", "jsonl", "parquet")]
    paths.append(write_tar(tmp_path / "t.tar", 23))
    found = survey(paths, Roles(), 9)
    assert found.rows == 92
    whole = [row for shard in range(len(found.marks)) for row in rows(found, shard)]
    assert [row.number for row in whole] == list(range(92))
    assert [row.id for row in whole] == [f"p{i:04d}" for _ in paths for i in range(23)]
    for shard in reversed(range(len(found.marks))):
        begin, end = found.span(shard)
        assert [(r.id, r.text, r.attributes) for r in rows(found, shard)] == [
            (r.id, r.text, r.attributes) for r in whole[begin:end]
        ]


def test_the_survey_types_columns_as_the_reader_of_tables_does(tmp_path):
    from bitfuse.data.table import read_table

    path = tmp_path / "t.csv"
    lines = [f'x{i},"a, ""quoted""\nline {i}",{i},{i / 2 if i % 2 else i},{i:03d},{"true" if i % 3 else "FALSE"},'
             for i in range(3000)]  # fmt: skip
    path.write_text("﻿id,text,whole,real,article,yes,empty\n" + "\n".join(lines) + "\n")
    found = survey([path], Roles(), 1000)
    samples = read_table(path)
    assert [m.row for m in found.marks] == [0, 1000, 2000]
    assert found.attributes == {"whole": "int", "real": "float", "article": "str", "yes": "bool", "empty": "str"}
    read = [row for shard in (2, 0, 1) for row in rows(found, shard)]
    read.sort(key=lambda row: row.number)
    assert [row.text for row in read] == samples.texts
    for name, values in samples.attributes.items():
        assert [row.attributes[name] for row in read] == values


def test_bad_rows_are_reported_and_the_others_coded(tmp_path, model):
    (tmp_path / "good.png").write_bytes(png(1))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "out.png").symlink_to("/etc/hostname")
    lines = [
        '{"id": "good", "image": "good.png", "text": "red"}',
        '{"id": "kept", "image": "bad.png", "text": "red"}',
        '{"id": "lost", "image": "bad.png"}',
        "not json",
        "[1]",
        '{"id": "up", "image": "../good.png", "text": "red"}',
        '{"id": "absolute", "image": "/etc/passwd"}',
        '{"id": "url", "image": "https://example.org/a.png"}',
        '{"id": "link", "image": "out.png"}',
        '{"id": "nothing", "text": "  "}',
        '{"id": "kind", "text": "blue", "price": 3}',
        '{"id": 1.5, "text": "blue"}',
        '{"text": "blue"}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    report = encode([tmp_path / "t.jsonl"], model, tmp_path / "codes", shard_rows=4)
    assert list(coded(tmp_path / "codes")) == ["good", "kept", "kind", "row-000013"]
    assert (report.coded, report.skipped) == (4, 10)
    said = [json.loads(line) for line in (tmp_path / "codes/skipped.jsonl").read_text().splitlines()]
    assert [one["row"] for one in said] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    for one, words in zip(
        said,
        ["not a picture of a known format; give JPEG, PNG, WebP, GIF, BMP or TIFF (kept with its other views)",
         "not a picture", "not JSON", "list found", "without '..'", "must be relative", "must be relative",
         "through a link", "no image or text view", "1.5 is no id"],
    ):  # fmt: skip
        assert words in one["reason"], one


def test_a_tar_cannot_lead_out_of_itself(tmp_path, model):
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ["../up.png", "/etc/abs.png", "good.png", "dir/with.dots.png", "x" * 120 + "é.png"]:
            member = tarfile.TarInfo(name)
            member.size = len(png(1))
            tar.addfile(member, io.BytesIO(png(1)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        broken = tarfile.TarInfo("broken.json")
        broken.size = 3
        tar.addfile(broken, io.BytesIO(b"{a}"))
    encode([tmp_path / "t.tar"], model, tmp_path / "codes", shard_rows=2)
    assert list(coded(tmp_path / "codes")) == ["good", "x" * 120 + "é"]
    reasons = (tmp_path / "codes/skipped.jsonl").read_text()
    assert reasons.count("leaves the archive") == 2
    assert "is a link or a device" in reasons
    assert "'broken.json' cannot be read" in reasons
    data = (tmp_path / "t.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:900])
    with pytest.raises(InputError, match=r"cut.tar is not a readable tar"):
        encode([tmp_path / "cut.tar"], model, tmp_path / "cut")


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_was_finished_is_not_made_again_and_the_end_is_the_same(tmp_path, model, monkeypatch):
    source = write_table(tmp_path, 50)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    encode([source], model, whole, shard_rows=8, views=True)
    made = []
    write = Coder._write

    def dies(self, shard, *rest):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(shard)
        return write(self, shard, *rest)

    monkeypatch.setattr(coder_module.Coder, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        encode([source], model, cut, shard_rows=8, views=True)
    assert made == [0, 1, 2]
    with pytest.raises(InputError, match="is not finished"):
        Shards(cut)
    (cut / "shard-000001.parquet").unlink()  # whatever is missing is made, whatever is there is kept
    (cut / "shard-000005.parquet.host.1.partial").write_bytes(b"half")
    made.clear()
    monkeypatch.setattr(
        coder_module.Coder, "_write", lambda self, shard, *rest: made.append(shard) or write(self, shard, *rest)
    )
    report = encode([source], model, cut, shard_rows=8, views=True)
    assert made == [1, 3, 4, 5, 6]
    assert report.resumed == 2
    assert files_of(cut) == files_of(whole)
    made.clear()
    assert encode([source], model, cut, shard_rows=8, views=True).resumed == 7
    assert not made


def test_a_directory_of_something_else_is_refused(tmp_path, model):
    source = write_table(tmp_path, 20)
    codes = tmp_path / "codes"
    encode([source], model, codes, shard_rows=8)
    with pytest.raises(InputError, match=r"something else \(stored_views differ\)"):
        encode([source], model, codes, shard_rows=8, views=True)
    os.utime(source, (1, 1))
    with pytest.raises(InputError, match=r"something else \(source differ\)"):
        encode([source], model, codes, shard_rows=8)
    with pytest.raises(InputError, match="exists and holds no shards"):
        encode([source], model, tmp_path / "pics")
    manifest = json.loads((codes / "manifest.json").read_text())
    (codes / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(UnknownFormat, match="shard format 99"):
        Shards(codes)
    (codes / "manifest.json").write_text(json.dumps(manifest))
    shard = codes / "shard-000001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"X")
    with pytest.raises(DamagedFile, match=r"shard-000001\.parquet is missing or changed"):
        list(Shards(codes).items())


def test_arguments_that_do_not_do(tmp_path, model):
    source = write_table(tmp_path, 5)
    for wrong, error, words in [
        ({"sources": ["memory://x/items.csv"]}, InputError, "nothing remote is read without --allow-remote"),
        ({"sources": [tmp_path / "gone.csv"]}, InputError, "there is no file or folder"),
        ({"sources": [tmp_path / "pics/p0000.png"]}, InputError, "is not read; give .csv"),
        ({"roles": Roles(image="photo")}, UnknownName, "unknown column 'photo'"),
        ({"roles": Roles(root="s3://bucket")}, InputError, "nothing remote"),
        ({"engine": "spark"}, UnknownName, "unknown engine 'spark'"),
        ({"shard_rows": 0}, InputError, "shard_rows must be an integer of at least 1"),
        ({"options": {"actors": 2}}, InputError, "the local engine has no options"),
    ]:
        with pytest.raises(error, match=words):
            encode(**{"sources": [source], "model": model, "out": tmp_path / "codes", **wrong})
        assert not (tmp_path / "codes").exists()
    (tmp_path / "clash.csv").write_text("text,code\nx,1\n")
    with pytest.raises(InputError, match=r"column\(s\) \['code'\] have the name"):
        encode([tmp_path / "clash.csv"], model, tmp_path / "codes")


def test_object_storage_where_it_is_allowed(tmp_path, model):
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    local = write_table(tmp_path, 12)
    for path in [local, *sorted((tmp_path / "pics").iterdir())]:
        fs.pipe(f"/bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    fs.pipe("/bucket/shards/a.tar", write_tar(tmp_path / "a.tar", 4).read_bytes())
    places = ["memory://bucket/items.csv", "memory://bucket/shards", "memory://bucket/pics"]
    encode(places, model, tmp_path / "codes", shard_rows=5, allow_remote=True)
    found = list(Shards(tmp_path / "codes").items())
    codes = expected(model, 12)
    assert [one["code"] for one in found[:16]] == [codes[f"p{i:04d}"] for i in [*range(12), *range(4)]]
    assert [one["id"] for one in found[16:]] == [f"p{i:04d}.png" for i in range(12)]
    assert found[0]["image"] == "memory://bucket/pics/p0000.png"


def test_memory_does_not_hold_the_rows(tmp_path, model, monkeypatch):
    """At any moment, no more rows are held than those of two batches, the next one and one shard."""
    source = write_table(tmp_path, 200)
    read, written, most = [], [], []
    given, write = coder_module.rows, Coder._write

    def counted(*args):
        for row in given(*args):
            read.append(row.number)
            most.append(len(read) - sum(written))
            yield row

    def noted(self, shard, held, *rest):
        written.append(len(held))
        return write(self, shard, held, *rest)

    monkeypatch.setattr(coder_module, "rows", counted)
    monkeypatch.setattr(Coder, "_write", noted)
    encode([source], model, tmp_path / "codes", shard_rows=20, batch_size=5)
    assert max(most) <= 20 + 3 * 5 + 16
    assert sum(written) == 200


@pytest.mark.filterwarnings("ignore:this query lies")
def test_shards_become_a_collection_and_join_one(tmp_path, model, fake):
    register()
    source = write_table(tmp_path, 40)
    run = CliRunner()
    asked = [
        "encode",
        str(source),
        "--model",
        str(model),
        "--out",
        str(tmp_path / "codes"),
        "--views",
        "float16",
        "--json",
    ]
    done = run.invoke(app, asked, catch_exceptions=False)
    assert json.loads(done.stdout)["coded"] == 40
    fake.clear()
    done = run.invoke(
        app, ["index", str(tmp_path / "codes"), "--out", str(tmp_path / "shop"), "--json"], catch_exceptions=False
    )
    facts = json.loads(done.stdout)
    assert (facts["added"], facts["stored_views"]) == (40, ["image", "text"])
    assert not fake  # nothing was encoded again
    with Collection.open(tmp_path / "shop", backbone=FakeBackbone()) as shop:
        direct = Collection.create(
            tmp_path / "direct", model=model, backbone=FakeBackbone(), filterable={"price": "int"}
        )
        direct.add({**item(i), "image": tmp_path / "pics" / f"p{i:04d}.png"} for i in range(40))
        for asked in (
            {"text": "red blue"},
            {"like": "p0007"},
            {"text": "green", "where": "price < 30", "rerank": True},
        ):
            assert [h.id for h in shop.search(**asked)] == [h.id for h in direct.search(**asked)]
        assert shop.get("p0003") == direct.get("p0003")
        direct.close()
    done = run.invoke(app, ["add", str(tmp_path / "shop"), str(tmp_path / "codes"), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["items"] == 40
    bf.hasher("lsh", n_bits=24).fit({"image": np.eye(24, dtype="f4"), "text": np.eye(24, dtype="f4")}).save(
        tmp_path / "m"
    )
    Collection.create(tmp_path / "other", model=tmp_path / "m").close()
    with pytest.raises(CollectionError, match="codes of another model"):
        run.invoke(app, ["add", str(tmp_path / "other"), str(tmp_path / "codes")], catch_exceptions=False)


def test_a_model_of_arrays_wants_a_backbone(tmp_path, model):
    rng = np.random.default_rng(0)
    bf.hasher("lsh", n_bits=8).fit({"image": rng.normal(size=(9, 24)), "text": rng.normal(size=(9, 24))}).save(
        tmp_path / "m"
    )
    source = write_table(tmp_path, 5)
    with pytest.raises(InputError, match="name it with --backbone"):
        encode([source], tmp_path / "m", tmp_path / "codes")
    assert encode([source], tmp_path / "m", tmp_path / "codes", backbone="fake").coded == 5
    assert shards_module.SHARD_ROWS == 8192


def test_views_that_rows_lack_are_null_in_shards_and_exports(tmp_path, model):
    source = write_table(tmp_path / "items", 12)
    lines = source.read_text().splitlines()
    at = lines[0].split(",").index("text")
    cells = [line.split(",") for line in lines]
    for row in (1, 4):
        cells[row][at] = ""
    source.write_text("\n".join(map(",".join, cells)) + "\n")
    encode([source], model, tmp_path / "codes", shard_rows=8, views=True)
    first = pq.read_table(tmp_path / "codes" / "shard-000000.parquet")
    assert [row is None for row in first["view_text"].to_pylist()] == [i in (0, 3) for i in range(8)]
    assert first["view_image"].null_count == 0
    with Collection.create(tmp_path / "shop", model=tmp_path / "codes" / "model") as shop:
        shop.add(Shards(tmp_path / "codes").items())
        shop.export(tmp_path / "shop.parquet", views=True)
    assert pq.read_table(tmp_path / "shop.parquet")["view_text"].null_count == 2
