"""ROCO, radiology pictures with captions and UMLS concepts, in the layout of its second version (ROCOv2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitfuse.data.base import Dataset, Samples
from bitfuse.data.columns import Columns, read_columns
from bitfuse.data.published import Published, RawSet, inside
from bitfuse.errors import InputError

PUBLISHED = Published("ROCOv2", "Zenodo, 'ROCOv2: Radiology Objects in COntext version 2' (DOI 10.5281/zenodo.8333645)")
PARTS = {"train": 59_958, "valid": 9_904, "test": 9_927}
MOST = 50
"""Concepts that become labels: the most frequent ones, as thousands of them occur in a handful of pictures."""


def read_roco(root: str | Path, concepts: int = MOST) -> Dataset:
    """Read `train_captions.csv` (ID, Caption), `train_concepts.csv` (ID, CUIs separated by `;`), `train/ID.jpg`, and
    the same for `valid` and `test`.

    Labels are the most frequent concepts of the whole set; a picture without one of them stays, unlabelled. Queries
    are the labelled pictures of `test`, the gallery is `train` and `valid`, and `train` trains.

    Args:
        root: the folder.
        concepts: how many concepts become labels.

    Raises:
        InputError: a file is missing or truncated, an id occurs twice, or a caption and a concept do not meet.
    """
    root = Path(root)
    ids: list[str] = []
    texts: list[str | None] = []
    found: list[list[str]] = []
    images: list[Path | None] = []
    parts: list[str] = []
    for part in PARTS:
        captions, terms = _table(root, part, "Caption"), _table(root, part, "CUIs")
        if unknown := set(terms) - set(captions):
            raise InputError(f"{root / part}_concepts.csv: {min(unknown)!r} has no caption; the files do not match")
        if not (root / part).is_dir():
            raise PUBLISHED.missing(root / part, "the pictures")
        for name, caption in captions.items():
            picture = root / part / f"{inside(name, f'{part}_captions.csv')}.jpg"
            images.append(picture if picture.is_file() else None)
            found.append([c.strip() for c in terms.get(name, "").split(";") if c.strip()])
            texts.append(caption.strip() or None)
        ids += captions
        parts += [part] * len(captions)
    names, counts = np.unique([c for listed in found for c in set(listed)], return_counts=True)
    kept = tuple(sorted(names[np.argsort(-counts, kind="stable")[:concepts]].tolist()))
    labels = np.array([[c in listed for c in kept] for listed in found], bool).reshape(len(ids), len(kept))
    sizes = {f"{part} pictures": parts.count(part) for part in PARTS}
    differs = PUBLISHED.compare(sizes, {f"{part} pictures": n for part, n in PARTS.items()}, root)
    samples = Samples(tuple(ids), images=images, texts=texts, labels=labels, label_names=kept)
    words = f"the {len(kept)} most frequent concepts (ROCOv2)"
    raw = RawSet(PUBLISHED, samples, f"{len(kept)} concepts", words, sum(PARTS.values()), None, None, tuple(differs))
    part_of = np.array(parts)
    return raw.by_parts((part_of == "test") & samples.labelled, part_of == "train")


def _table(root: Path, part: str, column: str) -> dict[str, str]:
    """One column by id."""
    path = root / f"{part}_{'captions' if column == 'Caption' else 'concepts'}.csv"
    if not path.is_file():
        raise PUBLISHED.missing(path, f"the columns ID and {column}")
    columns: Columns = read_columns(path)
    if {"ID", column} - columns.keys():
        raise InputError(f"{path} must have the columns ID and {column}, got {', '.join(columns)}")
    ids = [str(name or "") for name in columns["ID"]]
    if len(set(ids)) < len(ids) or "" in ids:
        raise InputError(f"{path}: every row needs an ID of its own; {max(ids, key=ids.count)!r} does not")
    return {name: str(value or "") for name, value in zip(ids, columns[column])}
