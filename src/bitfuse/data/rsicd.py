"""RSICD, satellite pictures with five sentences each, in the layout of its `dataset_rsicd.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bitfuse.data.base import Dataset, Samples
from bitfuse.data.published import Published, RawSet, inside
from bitfuse.errors import InputError

PUBLISHED = Published(
    "RSICD", "github.com/201528014227051/RSICD_optimal (dataset_rsicd.json, RSICD_images, txtclasses_rsicd)"
)
_PICTURES, _SENTENCES, _CLASSES = 10_921, 54_605, 30


def read_rsicd(root: str | Path) -> Dataset:
    """Read `dataset_rsicd.json` and the pictures in `RSICD_images/` (or `images/`) under `root`.

    A picture's text is its first sentence. Its label is its class: the file of `txtclasses_rsicd/` that lists it
    (`airport.txt`, ...), or, without that folder, its key `class` or the word before the number in its file name.
    Queries are the part `test`, the gallery is the rest, and `train` trains.

    Raises:
        InputError: a file is missing or no complete JSON, a picture listed twice, without a part, sentence or class.
    """
    root = Path(root)
    path = root / "dataset_rsicd.json"
    records = PUBLISHED.json(path, "pictures and sentences").get("images")
    if not isinstance(records, list) or not records:
        raise InputError(f"{path} has no list under 'images'; is it the official file?")
    home = next((root / n for n in ("RSICD_images", "images") if (root / n).is_dir()), None)
    if home is None:
        raise PUBLISHED.missing(root / "RSICD_images", "the pictures")
    listed = _classes(root / "txtclasses_rsicd")
    names, texts, classes, parts, sentences = [], [], [], [], 0
    for row, record in enumerate(records, 1):
        where = f"{path}, picture {row}"
        if not isinstance(record, dict) or record.get("split") not in ("train", "val", "test"):
            raise InputError(f"{where}: needs the keys filename, sentences and split (train, val or test)")
        name = inside(str(record.get("filename", "")), where).name
        names.append(name)
        texts.append(_sentence(record, where))
        sentences += len(record["sentences"])
        classes.append(_class(record, name, listed, where))
        parts.append(record["split"])
    if len(set(names)) < len(names):
        raise InputError(f"{path}: picture {max(names, key=names.count)!r} is listed more than once")
    label_names = tuple(sorted(set(classes)))
    counts = {"pictures": len(names), "sentences": sentences, "classes": len(label_names)}
    stated = {"pictures": _PICTURES, "sentences": _SENTENCES, "classes": _CLASSES}
    differs = PUBLISHED.compare(counts, stated, root)
    samples = Samples(
        ids=tuple(names),
        images=[home / name if (home / name).is_file() else None for name in names],
        texts=texts,
        labels=np.array(classes)[:, None] == np.array(label_names)[None],
        label_names=label_names,
    )
    words = f"{len(label_names)} classes (RSICD)"
    raw = RawSet(PUBLISHED, samples, "first sentences", words, _PICTURES, None, None, tuple(differs))
    part = np.array(parts)
    return raw.by_parts(part == "test", part == "train")


def _classes(folder: Path) -> dict[str, str]:
    """The class of each picture, by file name; empty without the folder."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        found |= dict.fromkeys(PUBLISHED.lines(path, "the pictures of one class"), path.stem)
    return found


def _class(record: dict[str, Any], name: str, listed: dict[str, str], where: str) -> str:
    word = Path(name).stem.rpartition("_")[0]
    found = listed.get(name) if listed else record.get("class") or word
    if not isinstance(found, str) or not found:
        raise InputError(f"{where}: no class for {name!r}; get the folder txtclasses_rsicd ({PUBLISHED.page})")
    return found


def _sentence(record: dict[str, Any], where: str) -> str:
    sentences = record.get("sentences")
    first = sentences[0] if isinstance(sentences, list) and sentences else None
    raw = first.get("raw") if isinstance(first, dict) else None
    if not isinstance(raw, str) or not raw.strip():
        raise InputError(f"{where}: no sentence; each picture needs sentences with the key 'raw'")
    return raw.strip()
