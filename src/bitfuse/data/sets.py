"""The published data sets by name: each reads its official layout on disk, and nothing is ever downloaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bitfuse.data.base import Dataset
from bitfuse.errors import InputError, UnknownName

NAMES = {
    "coco": "MS COCO 2014 or 2017: instances and captions as JSON; variants 2014 (default), 2017",
    "flickr25k": "MIR-Flickr25K: pictures, tags, annotations; variants 24 (labels, default), 38",
    "nuswide": "NUS-WIDE: image list, labels, 1,000 tags; variants tc21 (default), tc10, tc81",
    "roco": "ROCOv2, radiology: captions and concepts as CSV",
    "rsicd": "RSICD, satellite: pictures with sentences as JSON",
}
_DRAWN = ("coco", "flickr25k", "nuswide")


def named(data: str) -> tuple[str, str] | None:
    """`flickr25k:FOLDER` as name and folder; None where no published set is named so.

    Examples:
        >>> named("nuswide:/data/nus"), named("items.csv")
        (('nuswide', '/data/nus'), None)
    """
    name, colon, root = data.partition(":")
    return (name, root) if colon and root and name in NAMES else None


def read_published(
    name: str, root: str | Path, *, variant: str | None = None, seed: int | None = None, per_class: int | None = None,
    train: int | None = None,
) -> Dataset:  # fmt: skip
    """Read a published data set from its official files, and split it; features are not extracted.

    Args:
        name: one of `NAMES`.
        root: the folder that holds its files.
        variant: which labels or which year; None is the one that the papers use.
        seed: of the split recipe `per-class` (default 0); the medical and the satellite set come in parts of their own.
        per_class: positives drawn for each class as queries; None is 100, as in the papers.
        train: rows to train on, drawn from the gallery; None is the papers' number.

    Raises:
        UnknownName: no such set or variant.
        InputError: no such folder, files that are missing or damaged, or options that this set does not have.
    """
    if name not in NAMES:
        raise UnknownName("published data set", name, NAMES)
    given = {"variant": variant, "seed": seed, "per_class": per_class, "train": train}
    options = {k: v for k, v in given.items() if v is not None}
    reader: Any = getattr(importlib.import_module(f"bitfuse.data.{name}"), f"read_{name}")
    if not Path(root).is_dir():
        page = importlib.import_module(f"bitfuse.data.{name}").PUBLISHED.page
        raise InputError(
            f"there is no folder {str(root)!r}; {name} comes from {page} (nothing is downloaded by itself)"
        )
    if name not in _DRAWN:
        if options:
            raise InputError(f"{name} has one variant and parts of its own; leave {', '.join(options)} out")
        whole: Dataset = reader(root)
        return whole
    raw = reader(root) if variant is None else reader(root, options.pop("variant"))
    split: Dataset = raw.split(**options)
    return split
