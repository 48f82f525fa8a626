"""MIR-Flickr25K in its official layout: pictures, tags and annotations as files of numbers."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from bitfuse.data.base import Samples
from bitfuse.data.published import Published, RawSet
from bitfuse.errors import InputError, UnknownName

PUBLISHED = Published(
    "MIR-Flickr25K",
    "press.liacs.nl/mirflickr (MIRFLICKR-25000: mirflickr25k.zip and mirflickr25k_annotations_v080.zip)",
)
POTENTIAL = (
    "animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor", "lake", "male", "night",
    "people", "plant_life", "portrait", "river", "sea", "sky", "structures", "sunset", "transport", "tree", "water",
)  # fmt: skip
RELEVANT = tuple(
    f"{name}_r1"
    for name in (
        "baby", "bird", "car", "clouds", "dog", "female", "flower", "male", "night", "people", "portrait", "river",
        "sea", "tree",
    )
)  # fmt: skip
"""Concepts annotated a second time, where the concept is what the picture is about."""

VARIANTS = {"24": POTENTIAL, "38": POTENTIAL + RELEVANT}
FEWEST = 20
"""Pictures that a tag must occur in to count."""

_PICTURES = 25_000
_TAGS = 1_386
_PAIRS = 20_015


def read_flickr25k(root: str | Path, variant: str = "24") -> RawSet:
    """Read the official layout under `root`.

    `mirflickr/im1.jpg` to `im25000.jpg`, `mirflickr/meta/tags/tags1.txt` (one tag a line), and the annotations
    (`sky.txt`, `baby_r1.txt`, ...: one picture's number a line) in `mirflickr25k_annotations_v080/`, `annotations/`
    or `mirflickr/`; `root` may also be `mirflickr` itself. Kept are the pictures with at least one tag that occurs in
    20 pictures or more, and at least one label: 20,015 of 25,000. A picture's text is those of its tags.

    Args:
        root: the folder.
        variant: `"24"` labels, or `"38"` (with the 14 stricter annotations, whose files end in `_r1`).

    Raises:
        InputError: a file is missing, empty, or holds what it must not; a number beyond 25,000.
        UnknownName: another variant.
    """
    root = Path(root)
    if variant not in VARIANTS:
        raise UnknownName("variant of flickr25k", variant, VARIANTS)
    home = root / "mirflickr" if (root / "mirflickr").is_dir() else root
    numbers = _pictures(home)
    tags = [_tags(home / "meta" / "tags" / f"tags{i}.txt") for i in numbers]
    occurs = Counter(tag for found in tags for tag in found)
    texts = [" ".join(tag for tag in found if occurs[tag] >= FEWEST) for found in tags]
    labels, absent = _labels(_annotations(root, home), numbers, VARIANTS[variant])
    keep = np.flatnonzero(labels.any(axis=1) & np.array([bool(text) for text in texts]))
    if not len(keep):
        raise InputError(
            f"{root}: no picture has both a tag that occurs {FEWEST} times and a label; is it a whole copy?"
        )
    counts = {"pictures": len(numbers), "tags of 20 pictures or more": 0, "pairs": len(keep)}
    counts["tags of 20 pictures or more"] = sum(n >= FEWEST for n in occurs.values())
    published = {"pictures": _PICTURES, "tags of 20 pictures or more": _TAGS, "pairs": _PAIRS}
    differs = PUBLISHED.compare(counts, published, root)
    listed = keep.tolist()
    samples = Samples(
        ids=tuple(f"im{numbers[i]}" for i in listed),
        images=[home / f"im{numbers[i]}.jpg" for i in listed],
        texts=[texts[i] for i in listed],
        labels=labels[keep],
        label_names=VARIANTS[variant],
    )
    notes = {"pictures without such a tag or without a label": len(numbers) - len(keep)}
    if absent:
        notes["annotated pictures that are not here"] = absent
    words = f"{variant} labels (MIR-Flickr25K)"
    return RawSet(PUBLISHED, samples, f"{variant} labels", words, _PAIRS, 5_000, None, tuple(differs), notes)


def _pictures(home: Path) -> list[int]:
    names = [re.fullmatch(r"im([1-9]\d*)\.jpg", p.name) for p in home.iterdir()] if home.is_dir() else []
    numbers = sorted(int(found[1]) for found in names if found)
    if not numbers:
        raise PUBLISHED.missing(home / "im1.jpg", "the pictures im1.jpg to im25000.jpg")
    if numbers[-1] > _PICTURES:
        raise InputError(f"{home} holds im{numbers[-1]}.jpg; {PUBLISHED.title} ends with im{_PICTURES}.jpg")
    return numbers


def _tags(path: Path) -> list[str]:
    """The tags of one picture, each once; many pictures have none, so an empty file is in order."""
    if not path.is_file():
        raise PUBLISHED.missing(path, "the tags of one picture")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _annotations(root: Path, home: Path) -> Path:
    folders = [*(root / name for name in ("mirflickr25k_annotations_v080", "annotations")), home / "annotations"]
    folders += [home.parent / "mirflickr25k_annotations_v080", home, root]
    for folder in folders:
        if any((folder / f"{name}.txt").is_file() for name in POTENTIAL):
            return folder
    raise PUBLISHED.missing(folders[0], "the annotations (sky.txt and 37 others)")


def _labels(folder: Path, numbers: list[int], names: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """Labels (n, c), and how many annotated pictures are not there."""
    place = np.full(_PICTURES + 1, -1)
    place[numbers] = np.arange(len(numbers))
    labels, named = np.zeros((len(numbers), len(names)), bool), np.zeros(_PICTURES + 1, bool)
    for column, name in enumerate(names):
        path = folder / f"{name}.txt"
        for row, line in enumerate(PUBLISHED.lines(path, f"the numbers of the pictures with the label {name!r}"), 1):
            if not re.fullmatch(r"[1-9]\d{0,4}", line) or int(line) > _PICTURES:
                raise InputError(f"{path}, line {row}: {line[:40]!r} is not the number of a picture, 1 to {_PICTURES}")
            named[int(line)] = True
            if place[int(line)] >= 0:
                labels[place[int(line)], column] = True
    return labels, int((named & (place < 0)).sum())
