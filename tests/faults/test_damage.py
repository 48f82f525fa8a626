"""Damage is noticed: the code file is rebuilt, a damaged database is reported, a full disk loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.errors import BitfuseError, CollectionError, DamagedFile

ROWS = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)


def items(n, start=0):
    return [
        {"id": f"p{i}", "text": f"item {i}", "price": i, "views": {"image": ROWS[i]}} for i in range(start, start + n)
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "shop"
    model = bf.hasher("lsh", n_bits=24).fit({"image": ROWS})
    with bf.Collection.create(path, model=model, filterable={"price": "int"}) as shop:
        shop.add(items(500))
        shop.compact()
        shop.add(items(50, start=500))
        shop.delete("p3")
    return path


@pytest.fixture
def path(original, tmp_path):
    shutil.copytree(original, tmp_path / "shop")
    return tmp_path / "shop"


def answers(path):
    with bf.Collection.open(path) as shop:
        return [(h.id, h.distance) for h in shop.search(views={"image": ROWS[0]}, k=1000, where="price < 540")]


def cut(share):
    return lambda data: data[: int(len(data) * share)]


def flip(share):
    def damage(data):
        at = min(int(len(data) * share), len(data) - 1)
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    return damage


@pytest.mark.parametrize(
    "damage",
    [*map(cut, (0, 0.001, 0.01, 0.5, 0.999)), *map(flip, (0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999)), lambda d: d + b"x"],
)
def test_a_damaged_code_file_is_noticed_and_rebuilt(path, original, damage):
    file = path / "codes.bin"
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    with bf.Collection.open(path, backbone=None) as shop:
        assert "codes.bin" in shop.stats()["code_file"] or shop.stats()["code_file"] == "mapped"
        assert shop.verify() == []
    assert answers(path) == answers(original)
    assert file.read_bytes() != damage(sound)
    with bf.Collection.open(path) as shop:
        assert shop.stats()["code_file"] == "mapped"


def test_verify_names_a_damaged_code_file(path):
    with bf.Collection.open(path) as shop:
        file = path / "codes.bin"
        file.write_bytes(flip(0.8)(file.read_bytes()))
        assert ["codes.bin changed" in problem for problem in shop.verify()] == [True]


def test_a_missing_code_file_is_rebuilt(path, original):
    (path / "codes.bin").unlink()
    assert answers(path) == answers(original)


def test_the_code_file_of_another_life_is_not_used(path, tmp_path):
    """A restored backup goes another way; the newer code file of the lost life lies beside it."""
    with bf.Collection.open(path) as shop:
        shop.backup(tmp_path / "backup")
        shop.update([{"id": f"p{i}", "views": {"image": -ROWS[i]}} for i in range(10, 20)])
        shop.compact()
    shutil.copyfile(path / "codes.bin", tmp_path / "backup" / "codes.bin")
    with bf.Collection.open(tmp_path / "backup") as shop:
        assert [(h.id, h.distance) for h in shop.search(views={"image": ROWS[15]}, k=1)] == [("p15", 0)]
        assert shop.verify() == []


def test_leftovers_of_a_killed_compaction_do_no_harm(path, original):
    (path / "codes.bin.123.partial").write_bytes(b"half")
    assert answers(path) == answers(original)


@pytest.mark.parametrize(
    "damage", [cut(0), cut(0.3), cut(0.9), lambda d: b"\0" * 100 + d[100:], lambda d: b"x" * len(d)]
)
def test_a_damaged_database_is_reported(path, damage):
    file = path / "items.db"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DamagedFile, match=r"items\.db"), bf.Collection.open(path) as shop:
        raise DamagedFile("; ".join(shop.verify()).replace("database:", "items.db:"))


def test_a_missing_database_or_model_is_reported(path):
    shutil.rmtree(path / "models")
    with pytest.raises(DamagedFile, match="model is missing"):
        bf.Collection.open(path)
    (path / "items.db").unlink()
    with pytest.raises(DamagedFile, match=r"items\.db"):
        bf.Collection.open(path)


def test_a_changed_model_is_reported(path):
    weights = path / "models" / "1" / "weights.safetensors"
    weights.write_bytes(flip(0.9)(weights.read_bytes()))
    with pytest.raises(DamagedFile, match="changed since"):
        bf.Collection.open(path)


def use(shop):
    shop.search(views={"image": ROWS[1]}, k=20, where="price > 5 and not text is null", rerank=True, explain=True)
    shop.add(items(3, start=560))
    shop.update([{"id": "p9", "price": 3}])
    shop.delete("p5")
    shop.stats()
    shop.dedupe(1)
    shop.compact()


@pytest.mark.parametrize("seed", range(40))
def test_a_page_of_noise_never_gives_another_error_than_ours(path, seed):
    """Whatever page of the database is overwritten: it is reported, or what it held was not needed."""
    rng = np.random.default_rng(seed)
    file = path / "items.db"
    data = bytearray(file.read_bytes())
    page, size = int(rng.integers(0, len(data) // 4096)) * 4096, int(rng.choice([8, 200, 4096]))
    at = page + (0 if size == 4096 else int(rng.integers(0, 4096 - size)))
    data[at : at + size] = rng.bytes(size)
    file.write_bytes(data)
    try:
        with bf.Collection.open(path) as shop:
            found = shop.verify()
            use(shop)
    except BitfuseError:
        return
    assert found or size < 4096 or page // 4096 > 0


def test_verify_finds_what_sqlite_cannot(path):
    for statement, said in [
        ("DELETE FROM codes_1 WHERE row = 7", "1 item(s) without a code"),
        ("DELETE FROM items WHERE row = 7", "1 code(s) without an item"),
        ("UPDATE codes_1 SET code = x'00' WHERE row = 7", "of a wrong length"),
        ("DELETE FROM columns WHERE row = 7", "without their typed attributes"),
        ("UPDATE columns SET c0 = 99 WHERE row = 7", "typed attributes [99]"),
        ("UPDATE items SET attributes = 'x' WHERE row = 7", "cannot be read"),
        ("INSERT INTO tombstones VALUES (7, 99)", "deleted item(s)"),
        ("UPDATE items SET seq = 10000 WHERE row = 7", "newer than the last change"),
        ("UPDATE meta SET value = '7' WHERE key = 'next_row'", "row number(s)"),
        ("UPDATE views_1_0 SET vector = x'00' WHERE row = 7", "stored 'image' view(s)"),
        ("UPDATE meta SET value = '\"x\"' WHERE key = 'uuid'", "another state"),
        ("UPDATE codes_1 SET code = x'ffffff' WHERE row = 7", "1 code(s) are not those that compact wrote"),
        ("UPDATE codes_1 SET code = 'abc' WHERE row = 7", "1 code(s) that are no bytes"),
        ("INSERT INTO columns VALUES (9999, 1)", "typed attributes without an item"),
        ("INSERT INTO pictures VALUES (9999, x'00')", "kept picture(s) without an item"),
        ("UPDATE items SET id = x'ff' WHERE row = 7", "field of a wrong type"),
        ("UPDATE items SET attributes = '[1]' WHERE row = 7", "cannot be read"),
        ("UPDATE items SET attributes = '{\"a\": [1]}' WHERE row = 7", "cannot be read"),
        ("DELETE FROM names", "['price'] are not listed"),
    ]:
        shutil.copytree(path, path.with_name("copy"))
        database = sqlite3.connect(path.with_name("copy") / "items.db")
        with database:
            database.execute(statement)
        try:
            with bf.Collection.open(path.with_name("copy")) as shop:
                shop.verify()  # opening has rebuilt a code file that does not match
                if "uuid" in statement:
                    (path.with_name("copy") / "codes.bin").write_bytes((path / "codes.bin").read_bytes())
                problems = "; ".join(shop.verify())
        except DamagedFile as error:
            problems = str(error)
        database.close()
        assert said in problems or "lengths" in problems or "another length" in problems, statement
        shutil.rmtree(path.with_name("copy"))


@pytest.mark.parametrize("key", ["uuid", "generation", "seq", "next_row", "model", "n_bits", "views", "filterable",
                                 "keep_images", "code_token", "code_seq", "pruned_seq", "reencoding"])  # fmt: skip
@pytest.mark.parametrize("value", [None, "[5]", "-1.5", '{"image": "items; --"}'])
def test_a_damaged_entry_about_the_collection_is_reported(path, key, value):
    database = sqlite3.connect(path / "items.db")
    with database:
        sql = "DELETE FROM meta WHERE key = ?" if value is None else f"UPDATE meta SET value = '{value}' WHERE key = ?"
        database.execute(sql, (key,))
    database.close()
    with pytest.raises(DamagedFile, match=rf"items\.db (lacks its entry|holds .* as its entry) '{key}'"):
        bf.Collection.open(path)


def test_a_header_of_another_shape_is_damage(path, original):
    file = path / "codes.bin"
    sound = file.read_bytes()
    length = int.from_bytes(sound[8:16], "little")
    facts = json.loads(sound[16 : 16 + length])
    for said in [b"[" * 100_000, b"[]", b"7", *(json.dumps({**facts, "rows": n}).encode() for n in (1e9, -1, "x"))]:
        file.write_bytes(sound[:8] + len(said).to_bytes(8, "little") + said + sound[16 + length :])
        assert answers(path) == answers(original)


def test_an_export_of_damaged_items_says_so(path):
    database = sqlite3.connect(path / "items.db")
    with database:
        database.execute("UPDATE items SET id = x'ff' WHERE row = 7")
    database.close()
    with bf.Collection.open(path) as shop, pytest.raises(DamagedFile, match="what no item has"):
        shop.export(path.with_name("out.parquet"))
    assert not list(path.parent.glob("*.p*"))


def test_a_full_disk_is_an_error_and_loses_nothing(path):
    with bf.Collection.open(path) as shop:
        store = shop._session.store
        pages = store.value("PRAGMA page_count")
        store.value(f"PRAGMA max_page_count = {pages + 30}")
        safe = []
        with pytest.raises(CollectionError, match="batches acknowledged before are safe"):
            shop.add(
                ({**item, "id": f"new{i}", "text": "long " * 100} for i, item in enumerate(items(400))),
                batch_size=50,
                on_commit=safe.extend,
            )
        assert 0 < len(safe) < 400
        assert len(shop) == 549 + len(safe)
        assert shop.verify() == []
    with bf.Collection.open(path) as shop:
        assert all(shop.get(name) for name in safe)
        assert shop.verify() == []
        assert shop.add([{**items(1)[0], "id": "after"}]).added == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_really_full_disk(path, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let a tmpfs be mounted")
    try:
        shutil.copytree(path, place / "shop")
        safe: list[str] = []
        with bf.Collection.open(place / "shop") as shop:
            with pytest.raises((CollectionError, OSError)):
                shop.add(
                    ({**items(1)[0], "id": f"new{i}", "text": "long " * 500} for i in range(2000)),
                    batch_size=20,
                    on_commit=safe.extend,
                )
            assert shop.get(safe[-1]) is not None
        with bf.Collection.open(place / "shop") as shop:
            assert safe
            assert all(shop.get(name) for name in safe)
            assert shop.verify() == []
            assert len(shop.search(views={"image": ROWS[0]}, k=1000, where="price >= 0")) > 500
    finally:
        subprocess.run(["umount", "-l", place], check=False)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE items SET attributes = '[1]' WHERE row = 7", "in place of an item's attributes"),
        ("UPDATE codes_1 SET code = 'abc' WHERE row = 540", "codes of another length"),
        ("UPDATE meta SET value = '{\"imagf\": \"views_1_0\"}' WHERE key = 'views'", "'imagf' views"),
    ],
    ids=["attributes", "a code", "a view"],
)
def test_an_entry_of_a_wrong_kind_is_reported(path, sql, told):
    (path / "codes.bin").unlink()
    with sqlite3.connect(path / "items.db") as database:
        assert database.execute(sql).rowcount == 1
    database.close()
    with pytest.raises(DamagedFile, match=told), bf.Collection.open(path) as shop:
        shop.search(views={"image": ROWS[7]}, k=600, rerank=True)
