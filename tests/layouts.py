"""Miniature copies of the official layouts: shapes stand for photos, their colours and kinds for labels."""

from __future__ import annotations

import json
from pathlib import Path

from bitfuse.data.flickr25k import POTENTIAL, RELEVANT
from bitfuse.data.shapes import generate


def scenes(n, seed=0):
    """n pictures (PNG bytes, as good under the name .jpg), captions, and labels (n, c)."""
    world = generate(n, seed=seed)
    return list(world.images), list(world.texts), world.labels


def flickr25k(root: Path, n: int = 130) -> Path:
    pictures, texts, labels = scenes(n)
    home, notes = root / "mirflickr", root / "mirflickr25k_annotations_v080"
    (home / "meta" / "tags").mkdir(parents=True)
    notes.mkdir()
    marked = {name: [] for name in POTENTIAL + RELEVANT}
    for i, (picture, text, row) in enumerate(zip(pictures, texts, labels), 1):
        (home / f"im{i}.jpg").write_bytes(picture)
        tags = [] if i == 1 else [*text.split(), f"once{i}"]  # im1 has no tag, im2 no label
        (home / "meta" / "tags" / f"tags{i}.txt").write_text("".join(f"{tag}\r\n" for tag in tags))
        for column in row.nonzero()[0].tolist() if i != 2 else []:
            marked[POTENTIAL[column % len(POTENTIAL)]].append(i)
            if i % 3 == 0:
                marked[RELEVANT[column % len(RELEVANT)]].append(i)
    for k, numbers in enumerate(marked.values()):
        numbers.append(3 + k)  # none stays empty
    for name, numbers in marked.items():
        (notes / f"{name}.txt").write_text("".join(f"{i}\n" for i in sorted(set(numbers))))
    return root


CONCEPTS = ("animal", "beach", "buildings", "clouds", "flowers", "grass", "lake", "mountain", "ocean", "person",
            "plants", "reflection", "road", "rocks", "sky", "snow", "sunset", "toy", "tree", "vehicle", "water",
            "window", "zebra")  # fmt: skip


def nuswide(root: Path, n: int = 130, halves: bool = False) -> Path:
    pictures, texts, labels = scenes(n, seed=1)
    for folder in ("ImageList", "Groundtruth/AllLabels", "Groundtruth/TrainTestLabels", "NUS_WID_Tags", "Flickr/sea"):
        (root / folder).mkdir(parents=True)
    names = [f"sea\\{i:04d}_{9000 + i}.jpg" for i in range(n)]
    for name, picture in zip(names, pictures):
        (root / "Flickr" / name.replace("\\", "/")).write_bytes(picture)
    words = sorted({word for text in texts for word in text.split()})
    (root / "NUS_WID_Tags" / "TagList1k.txt").write_text("\n".join(words) + "\n")
    rows = ["\t".join(str(int(word in text.split())) for word in words) + "\t\n" for text in texts]
    marks = {name: labels[:, k % labels.shape[1]] for k, name in enumerate(CONCEPTS)}
    marks["zebra"] = marks["tree"] = labels[:, 0] & False
    cut = n // 2
    parts = [("Train", slice(0, cut)), ("Test", slice(cut, n))] if halves else [("", slice(0, n))]
    for part, some in parts:
        (root / "ImageList" / f"{part}Imagelist.txt").write_text("\r\n".join(names[some]) + "\r\n")
        tags = f"{part}_Tags1k.dat" if part else "AllTags1k.txt"
        (root / "NUS_WID_Tags" / tags).write_text("".join(rows[some]))
        for name, column in marks.items():
            where = f"TrainTestLabels/Labels_{name}_{part}" if part else f"AllLabels/Labels_{name}"
            (root / "Groundtruth" / f"{where}.txt").write_text("".join(f"{int(v)}\n" for v in column[some]))
    if halves:
        (root / "Groundtruth" / "AllLabels").rmdir()
    return root


def coco(root: Path, n: int = 160, year: str = "2014") -> Path:
    pictures, texts, labels = scenes(n, seed=2)
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": 3 * k + 1, "name": f"thing {k}", "supercategory": "x"} for k in range(labels.shape[1])]
    for part, some in (("train", range(n * 2 // 3)), ("val", range(n * 2 // 3, n))):
        (root / f"{part}{year}").mkdir()
        images, instances, captions = [], [], []
        for i in some:
            name = f"COCO_{part}{year}_{i:012d}.jpg"
            (root / f"{part}{year}" / name).write_bytes(pictures[i])
            images.append({"id": 500 + i, "file_name": name, "license": 1})
            for k in labels[i].nonzero()[0].tolist():
                about = {"image_id": 500 + i, "category_id": 3 * k + 1, "bbox": [0, 0, 1, 1], "segmentation": [[0.5]]}
                instances.append({"id": 100 * i + k, **about})
            captions += [{"id": 10 * i + j, "image_id": 500 + i, "caption": f"{texts[i]}\n" * j} for j in (2, 1)]
        write = {"instances": (instances, categories), "captions": (captions, [])}
        for kind, (found, listed) in write.items():
            content = {"info": {}, "images": images, "annotations": found, "categories": listed}
            (root / "annotations" / f"{kind}_{part}{year}.json").write_text(json.dumps(content))
    return root


def rsicd(root: Path, n: int = 60) -> Path:
    pictures, texts, labels = scenes(n, seed=3)
    (root / "RSICD_images").mkdir(parents=True)
    (root / "txtclasses_rsicd").mkdir()
    images: list[dict] = []
    classes: dict[str, list[str]] = {"airport": [], "park": [], "00": []}
    for i, (picture, text) in enumerate(zip(pictures, texts)):
        kind = list(classes)[int(labels[i].argmax()) % 3]
        name = f"{i:05d}.jpg" if kind == "00" else f"{kind}_{i}.jpg"
        (root / "RSICD_images" / name).write_bytes(picture)
        classes[kind].append(name)
        raws = [{"raw": f"{text} .", "tokens": text.split(), "imgid": i}, {"raw": "more .", "imgid": i}]
        images.append({"filename": name, "imgid": i, "sentences": raws, "split": ("train", "val", "test")[i % 3]})
    for kind, names in classes.items():
        (root / "txtclasses_rsicd" / f"{kind}.txt").write_text("\n".join(names) + "\n")
    (root / "dataset_rsicd.json").write_text(json.dumps({"images": images, "dataset": "rsicd"}))
    return root


def roco(root: Path, n: int = 60) -> Path:
    pictures, texts, labels = scenes(n, seed=4)
    for k, part in enumerate(("train", "valid", "test")):
        (root / part).mkdir(parents=True)
        captions, concepts = ["ID,Caption"], ["ID,CUIs"]
        for i in range(k, n, 3):
            name = f"ROCOv2_2023_{part}_{i:06d}"
            (root / part / f"{name}.jpg").write_bytes(pictures[i])
            captions.append(f'{name},"{texts[i]}, seen"')
            concepts.append(f"{name},{';'.join(f'C{c:07d}' for c in labels[i].nonzero()[0])}")
        (root / f"{part}_captions.csv").write_text("\n".join(captions) + "\n")
        (root / f"{part}_concepts.csv").write_text("\n".join(concepts) + "\n")
    return root


LAYOUTS = {"flickr25k": flickr25k, "nuswide": nuswide, "coco": coco, "rsicd": rsicd, "roco": roco}
