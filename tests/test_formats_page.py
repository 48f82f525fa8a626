"""What stands on the page of formats is what is written: every key, table and column of a fresh file is named there."""

import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import bitfuse as bf
from bitfuse.pipeline import training

TEXT = (Path(__file__).parents[1] / "docs/formats.md").read_text()
NAMED = {word for code in re.findall(r"`([^`\n]+)`", TEXT) for word in re.findall(r"\w+", code)}


def unnamed(names):
    return sorted(set(names) - NAMED)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model with its attachment, and a compacted collection of it."""
    root = tmp_path_factory.mktemp("formats")
    rows = np.random.default_rng(0).normal(size=(120, 8)).astype("float32")
    samples = bf.Samples(tuple(f"p{i}" for i in range(120)), {"image": rows})
    model = bf.hasher("itq", n_bits=8).fit({"image": rows})
    model.save(root / "model", attachments=training.ids_attachment(*training.hold_out(samples)))
    with bf.Collection.create(root / "shop", model=root / "model", filterable={"price": "float"}) as shop:
        shop.add({"id": f"p{i}", "views": {"image": rows[i]}, "price": 1.5, "kind": "cup"} for i in range(120))
        shop.delete(["p3"])
        shop.compact()
        pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
        shop.export(root / "shop.parquet", views=True)
    model.encode({"image": rows}).save(root / "codes")
    return root


def test_a_model(written):
    card = json.loads((written / "model/model.json").read_text())
    assert unnamed(card) == []
    assert {file for file in card["files"] if f"`{file}`" not in TEXT} == set()
    assert len(card["files"]) >= 2
    with safe_open(written / "codes", "np") as file:
        assert unnamed([*file.keys(), *json.loads(file.metadata()["bitfuse"])]) == []


def test_a_collection(written):
    with sqlite3.connect(written / "shop/items.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        kinds = {re.sub(r"_\d.*", "", table) for table in tables}  # codes_1, views_1_0: with their generation
        assert {"items", "codes", "views", "tombstones"} <= kinds
        assert kinds <= set(re.findall(r"^\| `([a-z]+)(?:_<.+>)?` \|", TEXT, re.M))
        assert unnamed(key for (key,) in database.execute("SELECT key FROM meta")) == []
        assert unnamed(column[1] for column in database.execute("PRAGMA table_info(items)")) == []
        (version,) = database.execute("PRAGMA user_version").fetchone()
        assert f"`PRAGMA user_version` is the format number ({version})" in TEXT
    start = (written / "shop/codes.bin").read_bytes()
    assert start[:8] == b"BITFUSE\x01"
    assert unnamed(json.loads(start[16 : 16 + int.from_bytes(start[8:16], "little")])) == []
    files = {file.name for file in (written / "shop").iterdir() if not file.name.startswith("items.db-")}
    assert files <= set(re.findall(r"^- `([\w.]+)", TEXT, re.M))


def test_an_export(written):
    import pyarrow.parquet as pq

    schema = pq.read_schema(written / "shop.parquet")
    assert unnamed(json.loads(schema.metadata[b"bitfuse"])) == []
    columns = set(schema.names) - {"price"}
    assert {name for name in columns if not name.startswith("view_") and name not in NAMED} == set()
    assert "view_image" in columns
