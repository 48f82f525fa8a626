"""Streaming encode beside a plain loop over a DataLoader and beside Ray, with the pocket CLIP; and its memory.

    python benchmarks/encode_stream.py [--parts speed ray memory] [--items 200000] [--few 20000] [--timed 8000]
        [--rounds 3] [--keep DIR] [--out benchmarks/results/encode_stream.json]

speed: both read the same tars of PNGs and captions and make the same codes. The loop is what a person writes: batches
of 64, the processor and the tokenizer of `transformers`, the model, the hasher. Rounds of both alternate; the ratio is
the median, and neither counts the reading of the model.

ray: the same items by `--engine ray`, one actor for each core, and by the pipeline of one process on as many cores;
how many times as long Ray takes with everything (starting a cluster, reading the model) and after the first shards.

memory: what is resident after `--few` and after all items of one run, in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import bitfuse as bf
from bitfuse.bench.facts import environment
from bitfuse.pipeline.shards import Engine, Shards, encode

ITEMS_PER_TAR = 10_000
PARTS = ("speed", "ray", "memory")


def write_tar(folder: str, first: int, n: int) -> None:
    from bitfuse.data.shapes import generate

    target = Path(folder, f"{first:08d}.tar")
    if target.exists():
        return
    samples = generate(n, start=first, seed=77)
    assert samples.images is not None
    assert samples.texts is not None
    with tarfile.open(f"{target}.part", "w") as tar:
        for i, name in enumerate(samples.ids):
            for kind, data in (("png", samples.images[i]), ("txt", str(samples.texts[i]).encode())):
                member = tarfile.TarInfo(f"{name}.{kind}")
                assert isinstance(data, bytes)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    os.replace(f"{target}.part", target)


def write_items(folder: Path, n: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, n, ITEMS_PER_TAR)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write_tar, [str(folder)] * len(starts), starts, [min(ITEMS_PER_TAR, n - at) for at in starts]))
    return [str(folder / f"{at:08d}.tar") for at in starts]


def write_model(folder: Path) -> Path:
    if not folder.exists():
        world = bf.dataset("shapes", n_train=2000, n_query=10, n_gallery=10)
        bf.hasher("itq", n_bits=64, aligned=True).fit(world.train.views, sources=world.train.sources).save(folder)
    return folder


def timed_encode(tar: str, model: Path, out: Path, engine: Engine = "local", actors: int = 1) -> tuple[float, float]:
    """Items a second once every actor has written a shard, by the times of the files; and all seconds.

    The first figure does not count the reading of the model.
    """
    report = encode(
        [tar], model, out, shard_rows=512, engine=engine, options={"actors": actors} if engine == "ray" else None
    )
    records = sorted((os.stat(out / one["file"]).st_mtime, one["coded"]) for one in Shards(out).manifest["shards"])
    counted = sum(coded for _, coded in records[actors:])
    return counted / (records[-1][0] - records[actors - 1][0]), report.seconds


def plain_loop(tar: str, model: Path, workers: int) -> tuple[float, list[bytes]]:
    """Items a second, once the model is read; and the codes."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, IterableDataset
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    place = Path(bf.__file__).parent / "features" / "pocket"
    clip = AutoModel.from_pretrained(place, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(place, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(place)
    hasher = bf.load(model)

    class Items(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            info = torch.utils.data.get_worker_info()
            with tarfile.open(tar) as opened:
                for i, member in enumerate(opened):
                    if info is None or (i // 2) % info.num_workers == info.id:
                        held: Any = opened.extractfile(member)
                        data = held.read()
                        if member.name.endswith(".png"):
                            image = Image.open(io.BytesIO(data)).convert("RGB")
                        else:
                            yield image, data.decode()

    def collate(batch: Any) -> Any:
        images, texts = zip(*batch)
        return (
            processor(images=list(images), return_tensors="pt"),
            tokenizer(list(texts), truncation=True, padding="longest", return_tensors="pt"),
        )

    codes = []
    started = time.perf_counter()
    with torch.inference_mode():
        for pixels, words in DataLoader(Items(), batch_size=64, collate_fn=collate, num_workers=workers):
            views = {
                "image": clip.get_image_features(**pixels).pooler_output.numpy(),
                "text": clip.get_text_features(**words).pooler_output.numpy(),
            }
            codes += [row.tobytes() for row in hasher.encode(views).packed]
    return len(codes) / (time.perf_counter() - started), codes


def resident() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024


def memory_run(folder: Path, model: Path, few: int) -> dict[str, float]:
    """One long run: MiB resident after `few` items and at the end, the greatest in between, items a second."""
    seen: list[tuple[int, int]] = []

    def note(done: int) -> None:
        seen.append((done, resident()))
        print(f"{done} items, {seen[-1][1]} MiB", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as out:
        report = encode(
            [folder],
            model,
            Path(out, "codes"),
            shard_rows=2048,
            on_shard=lambda done, _: note(done),
        )
    early = next(mib for done, mib in seen if done >= few or done == report.rows)
    return {
        "items": report.rows, "mib_early": early, "mib_end": seen[-1][1], "mib_most": max(mib for _, mib in seen),
        "growth": round(seen[-1][1] / early, 3), "items_per_second": round(report.rows / report.seconds),
    }  # fmt: skip


def ray_run(tar: str, model: Path, place: Path, rounds: int) -> dict[str, Any]:
    """The same items by both engines on all cores of this machine, in turn: medians, and how much longer Ray takes."""
    import torch

    cores = torch.get_num_threads()
    engines: tuple[Engine, ...] = ("local", "ray")
    runs: dict[str, list[tuple[float, float]]] = {engine: [] for engine in engines}
    for number in range(rounds):
        for engine in engines:
            runs[engine].append(timed_encode(tar, model, place / f"{engine}-{number}", engine, cores))
            rate, seconds = runs[engine][-1]
            print(f"{engine}: {seconds:.1f} s in all, {rate:.0f} items/s after the start", flush=True)
    codes = {engine: [item["code"] for item in Shards(place / f"{engine}-0").items()] for engine in engines}
    figures: dict[str, Any] = {"items": len(codes["local"]), "cores": cores, "rounds": rounds}
    figures["codes_that_differ"] = sum(a != b for a, b in zip(codes["local"], codes["ray"], strict=True))
    for engine in engines:
        rate, seconds = (statistics.median(column) for column in zip(*runs[engine]))
        figures[engine] = {"items_per_second": rate, "seconds": seconds}
    ray, local = figures["ray"], figures["local"]
    figures["times_as_long_in_all"] = ray["seconds"] / local["seconds"]
    figures["times_as_long_after_the_start"] = local["items_per_second"] / ray["items_per_second"]
    return figures


def speed_run(tar: str, model: Path, place: Path, rounds: int, workers: int) -> dict[str, Any]:
    made = []
    for number in range(rounds + 1):  # the first round warms up
        ours, _ = timed_encode(tar, model, place / f"codes-{number}")
        theirs, codes = plain_loop(tar, model, workers)
        made.append({"items_per_second": ours, "plain_loop": theirs, "ratio": ours / theirs})
        print(f"round {number}: {ours:.0f} items/s, plain loop {theirs:.0f}, ratio {ours / theirs:.2f}", flush=True)
    differ = sum(a != one["code"] for a, one in zip(codes, Shards(place / f"codes-{rounds}").items(), strict=True))
    return {
        "items": len(codes), "rounds": made[1:], "median_ratio": statistics.median(r["ratio"] for r in made[1:]),
        "codes_that_differ": differ,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--items", type=int, default=200_000, help="of the memory run")
    parser.add_argument("--few", type=int, default=20_000)
    parser.add_argument("--timed", type=int, default=8_000, help="items of speed and ray, at most 10,000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--threads", type=int, help="of torch, for all")
    parser.add_argument("--keep", type=Path, help="a directory for model and items, used again by the next run")
    parser.add_argument("--out", type=Path, help="a JSON file; parts that are not run stay in it")
    parser.add_argument("--child", action="store_true", help="only the memory run, in this process")
    asked = parser.parse_args()
    if asked.threads:
        import torch

        torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as temporary:
        root = asked.keep or Path(temporary)
        model = write_model(root / "model")
        if asked.child:
            print(json.dumps(memory_run(root / f"items-{asked.items}", model, asked.few)))
            return
        found: dict[str, Any] = {}
        for part in asked.parts:
            if part == "memory":
                write_items(root / f"items-{asked.items}", asked.items)
                command = [sys.executable, __file__, "--child", "--items", str(asked.items), "--few", str(asked.few)]
                done = subprocess.run([*command, "--keep", str(root)], check=True, stdout=subprocess.PIPE)
                found[part] = json.loads(done.stdout)
                print(json.dumps(found[part]))
                continue
            (tar,) = write_items(root / f"timed-{asked.timed}", min(asked.timed, ITEMS_PER_TAR))
            if part == "speed":
                found[part] = speed_run(tar, model, Path(temporary), asked.rounds, asked.workers)
            else:
                found[part] = ray_run(tar, model, Path(temporary), asked.rounds)
            print(json.dumps(found[part]))
    if asked.out:
        import torch

        kept = json.loads(asked.out.read_text()) if asked.out.exists() else {}
        kept |= {**environment(torch.get_num_threads(), {}), **found}
        asked.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
