"""Streaming encode beside a plain loop over a DataLoader, on generated items with the pocket CLIP; and its memory.

    python benchmarks/encode_stream.py [--items 200000] [--few 20000] [--timed 8000] [--rounds 3] [--keep DIR]

Both read the same tars of PNGs and captions and make the same codes. The loop is what a person writes: batches of 64,
the processor and the tokenizer of `transformers`, the model, the hasher. Rounds of both alternate; the ratio is the
median, and neither counts the reading of the model. Resident memory is read after `--few` and after all items of one
run, in a process of its own.
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
from bitfuse.pipeline.shards import Shards, encode

ITEMS_PER_TAR = 10_000


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


def timed_encode(tar: str, model: Path, out: Path) -> float:
    """Items a second between the end of the first shard and that of the last: reading the model is not counted."""
    seen: list[tuple[int, float]] = []
    encode([tar], model, out, shard_rows=512, on_shard=lambda done, _: seen.append((done, time.perf_counter())))
    (first, begun), (last, ended) = seen[0], seen[-1]
    return (last - first) / (ended - begun)


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
    with tempfile.TemporaryDirectory() as out:
        report = encode(
            [folder],
            model,
            Path(out, "codes"),
            shard_rows=2048,
            on_shard=lambda done, _: seen.append((done, resident())),
        )
    early = next(mib for done, mib in seen if done >= few or done == report.rows)
    return {
        "items": report.rows, "mib_early": early, "mib_end": seen[-1][1], "mib_most": max(mib for _, mib in seen),
        "growth": round(seen[-1][1] / early, 3), "items_per_second": round(report.rows / report.seconds),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--few", type=int, default=20_000)
    parser.add_argument("--timed", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--threads", type=int, help="of torch, for both")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--memory", action="store_true", help="only the long run (a process of its own)")
    asked = parser.parse_args()
    if asked.threads:
        import torch

        torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as temporary:
        root = asked.keep or Path(temporary)
        model = write_model(root / "model")
        if asked.memory:
            print(json.dumps(memory_run(root / f"items-{asked.items}", model, asked.few)))
            return
        (tar,) = write_items(root / f"timed-{asked.timed}", min(asked.timed, ITEMS_PER_TAR))
        ratios = []
        for number in range(asked.rounds + 1):
            out = Path(temporary, f"codes-{number}")
            ours = timed_encode(tar, model, out)
            theirs, codes = plain_loop(tar, model, asked.workers)
            if number:  # the first round warms up
                ratios.append(ours / theirs)
            print(f"round {number}: {ours:.0f} items/s, plain loop {theirs:.0f}, ratio {ours / theirs:.2f}", flush=True)
        differ = sum(a != one["code"] for a, one in zip(codes, Shards(out).items()))
        print(f"median ratio {statistics.median(ratios):.2f}; {differ} of {len(codes)} codes differ")
        if asked.items:
            write_items(root / f"items-{asked.items}", asked.items)
            command = [sys.executable, __file__, "--memory", "--items", str(asked.items), "--few", str(asked.few)]
            subprocess.run([*command, "--keep", str(root)], check=True)


if __name__ == "__main__":
    main()
