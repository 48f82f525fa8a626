"""Figures that the README and the docs print are those that the scripts measured: `benchmarks/results/`."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]


def measured(name):
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text())


def line(page, *words):
    """The one line of a page in which all of these words stand."""
    found = [text for text in (ROOT / page).read_text().splitlines() if all(word in text for word in words)]
    assert len(found) == 1, (page, words, len(found))
    return found[0]


def short(value, digits=3):
    """.706 for 0.7061, as tables of the field print it."""
    return f"{value:.{digits}f}".lstrip("0") if value < 1 else f"{value:.{digits}f}"


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_readme_evaluation():
    row, known = line("README.md", "evaluate_nuswide.py"), measured("evaluate_nuswide")
    whole, one, single = (f"{value:.0f}" for value in known["times_faster"].values())
    assert f"{whole} times as fast ({one} on one thread; {single} against" in row
    assert f"all metrics take {known['all_metrics_against_map_alone']} times" in row
    row, known = line("README.md", "evaluate_all_metrics.py"), measured("evaluate_all_metrics")
    assert f"| {known['everything_against_map_alone']} times the time, {known['peak_memory_mib']} MiB |" in row


def test_readme_search():
    known = {(r["batch"], r["bits"]): r["times_faster"]["wall"] for r in measured("search_faiss")["exact"]}
    for batch, words in ((300, "300 queries at once"), (1, "the same, one query")):
        said = cells(line("README.md", words))[1].split(" times")[0].split(" / ")
        assert [float(value) for value in said] == pytest.approx(
            [known[batch, b] for b in (64, 128, 256, 512)], abs=0.051
        )
    first = measured("search_repeated")["rows"][0]
    said = f"{first['times_faiss']:.0f} times FAISS, {first['times_ungrouped']:.0f} times our own"
    assert said in line("README.md", "search_repeated.py")
    row = line("README.md", "peers.py")
    for engine in measured("peers")["engines"]:
        name = engine["engine"].split()[0]
        if name != "bitfuse,":
            assert f"{name} {engine['latency_ms']:.{1 if engine['latency_ms'] < 10 else 0}f}" in row
    assert f"{measured('peers')['engines'][0]['latency_ms']:.1f} ms; FAISS" in row


def test_the_approximate_tier():
    rows = [cells(row) for row in (ROOT / "docs/running/collection.md").read_text().splitlines() if "% |" in row]
    known = {(r["bits"], r["flipped"], r["probes"]): r for r in measured("search_ivf")["rows"]}
    assert len(rows) == 5
    for bits, flipped, probes, recall, batch, one in rows:
        row = known[int(bits), int(flipped.removesuffix(" %")) / 100, int(probes)]
        assert float(recall) == pytest.approx(row["recall"], abs=0.00051)
        assert float(batch) == pytest.approx(row["times_faster_in_a_batch"], abs=0.0501)
        assert float(one) == pytest.approx(row["times_faster_one_query"], abs=0.0501)


def test_a_collection_of_a_million():
    known, row = measured("collection_speed"), line("README.md", "collection_speed.py")
    assert f"{round(known['add_items_per_s'], -2):,.0f} items a second" in row
    assert f"{known['open_and_search_s']:.1f} s / {known['bytes_per_item_resident']:.0f} bytes an item" in row


def test_readme_models():
    assert f"{measured('pocket_retrieval')['figures']['image_to_text_r1']:.2f} |" in line(
        "README.md", "pocket_retrieval"
    )
    graphs = [r for r in measured("onnx_speed")["results"] if r["kind"] == "fp32"]
    times = [r["times_torch"] for r in graphs]
    assert all(r["differ"] == 0 for r in graphs)
    assert f"{min(times):.1f} to {max(times):.1f} times as fast" in line("README.md", "onnx_speed.py")
    assert f"{measured('encode_stream')['speed']['median_ratio']:.1f} times as fast" in line(
        "README.md", "encode_stream"
    )
    said = ", and ".join(f"{value:.3f}" for value in measured("shapes_clipmh")["means"].values())
    assert said in line("README.md", "shapes_clipmh.py")


CLOTHES = ("clipmh", "itq", "float cosine")


def clothes(task, method):
    return short(mean(run["both"] for run in measured("hm_fashionclip")["mAP by seed"][f"{task} | {method}"]))


def test_real_features():
    said = cells(line("README.md", "hm_fashionclip.py"))[1]
    assert said == "; ".join(" / ".join(clothes(task, method) for method in CLOTHES) for task in "ad")
    text = line("docs/choosing.md", "On 1,060 real articles")
    assert f"reaches {clothes('a', 'clipmh')} where ITQ has {clothes('a', 'itq')}" in text
    unseen = [clothes("d", method) for method in CLOTHES]
    assert f"labelled {unseen[0]} where ITQ has {unseen[1]} and the float features {unseen[2]}" in text
    names = {
        "`onehot`": "onehot", "same classifier's scores": "onehot, scores", "| CLIPMH |": "clipmh",
        "| ITQ, no labels": "itq", "no training |": "float cosine",
    }  # fmt: skip
    for words, method in names.items():
        row = line("docs/judging/published.md", words, "|", clothes("a", method))
        assert cells(row)[1:] == [clothes(task, method) for task in "acd"]


def test_choosing():
    page = "docs/choosing.md"
    rows = {row[0]: row[1:] for row in tables("labels")[0]}
    for words, name in (("| ITQ, every row", "ITQ, every row, no label"), ("| CLIPMH |", "CLIPMH"),
                        ("| one-hot classifier", "OneHot, scores coded")):  # fmt: skip
        assert cells(line(page, words))[1:] == [short(float(v.split("±")[0])) for v in rows[name]]
    rows = {row[0]: row[1:] for row in tables("sizes")[0]}
    for bits in (16, 32, 64, 128, 256):
        own, far, *_, maps = (short(float(v.split("±")[0])) for v in rows[f"{bits} bits"] if v != "-")
        assert cells(line(page, f"| {bits} |")) == [str(bits), maps, own, far]
    text = line(page, "context gate of CLIPMH")
    for row in tables("fusion")[0]:
        if row[0] != "context gate, a layer for each view":
            assert row[1].lstrip("0") in text


def tables(name):
    """The tables of an ablation, as rows of cells."""
    text = (ROOT / f"benchmarks/results/ablations/{name}.md").read_text()
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [[cells(row) for row in table.splitlines()[2:]] for table in found]


def test_beyond_one_machine():
    page = "docs/scaling.md"
    for point in measured("collection_scale")["curve"]:
        row = cells(line(page, f"| {point['items']:,} | "))
        search = point["search_ms"]
        assert row[1] == f"{point['distinct_share']:.3f}"
        assert row[4:7] == [f"{point['build']['peak_bytes'] / 1e9:.2f}", f"{point['open_s']:.1f}",
                            f"{point['resident_bytes_per_item']:.1f}"]  # fmt: skip
        assert row[8:] == [f"{search['p50']:.1f}", f"{search['p99']:.1f}", f"{point['batch_queries_per_s']:.0f}"]
    kinds = {"torch": "PyTorch", "fp32": "graph, fp32", "int8": "graph, int8"}
    methods = {"itq": "| ITQ, aligned |", "ucmfh": "| UCMFH |"}
    for run in measured("onnx_speed")["results"]:
        row = cells(line(page, methods[run["method"]], f"| {run['view']} |", f"| {kinds[run['kind']]} |"))
        differ = f"{run['differ']} of 64,000" if "differ" in run else "-"
        assert row[3:] == [f"{run['items_per_s']:,.0f}", f"{run['times_torch']:.2f}", differ]


def test_the_service():
    known, page = measured("serve_load"), "docs/service.md"
    steady, memory = known["steady"], known["steady"]["resident_mib"]
    said = f"{steady['search_p50_ms']} and {steady['search_p99_ms']:.0f} ms; {steady['write_p99_ms']:.0f} ms"
    assert said in line(page, "| ten minutes: median")
    assert f"{memory['first quarter']:.0f} and {memory['last quarter']:.0f} MiB" in line(page, "memory of both")
    assert f"{known['ready_after_kill_s']} s" in line(page, "ready again after the kill")
    assert f"{sum(steady['statuses'].values()):,}" in line(page, "answered, refused, failed")
