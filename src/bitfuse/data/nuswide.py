"""NUS-WIDE in its official layout: an image list, 81 files of labels, a matrix of 1,000 tags, and the photos."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Samples
from bitfuse.data.published import Published, RawSet, inside
from bitfuse.errors import DataWarning, InputError, UnknownName

PUBLISHED = Published(
    "NUS-WIDE",
    "lms.comp.nus.edu.sg, NUS-WIDE (ImageList.zip, Groundtruth.zip, ConceptsList.zip, NUS_WID_Tags.zip; the photos "
    "by request to its authors, or by the addresses in NUS-WIDE-urls.rar)",
)


@dataclass(frozen=True)
class Variant:
    """A choice of concepts: the most frequent ones, and the rows that carry any of them."""

    concepts: int
    rows: int


VARIANTS = {"tc21": Variant(21, 195_834), "tc10": Variant(10, 186_577), "tc81": Variant(81, 209_347)}
_IMAGES, _CONCEPTS, _TAGS = 269_648, 81, 1_000


@dataclass(frozen=True)
class _Part:
    """Files whose lines belong together: line i of each is about one photo."""

    images: str
    labels: str
    tags: str


_WHOLE = (_Part("Imagelist.txt", "AllLabels/Labels_{}.txt", "AllTags1k.txt"),)
_HALVES = tuple(
    _Part(f"{p}Imagelist.txt", f"TrainTestLabels/Labels_{{}}_{p}.txt", f"{p}_Tags1k.dat") for p in ("Train", "Test")
)


def read_nuswide(root: str | Path, variant: str = "tc21") -> RawSet:
    """Read the official layout under `root`.

    `ImageList/Imagelist.txt` (`actor\\0001_2124494179.jpg`, ...), `Groundtruth/AllLabels/Labels_sky.txt` and 80
    others (0 or 1 a line), `NUS_WID_Tags/AllTags1k.txt` (1,000 of 0 and 1 a line) with `TagList1k.txt`; or, without
    AllLabels, the same in its Train and Test parts (`TrainTestLabels`). Folders may be flattened. Photos lie in
    `Flickr/` or `images/`, with or without their subfolders. A photo's text is its tags among the 1,000.

    Args:
        root: the folder.
        variant: `"tc21"`: the rows with any of the 21 most frequent concepts (195,834); `"tc10"`: 10 (186,577);
            `"tc81"`: all (209,347). Other counts in the literature, such as 223,496, come from other rules.

    Raises:
        InputError: a file is missing, or its lines are not as many as the photos; a line of something else.
        UnknownName: another variant.
    """
    root = Path(root)
    if variant not in VARIANTS:
        raise UnknownName("variant of nuswide", variant, VARIANTS)
    wanted = VARIANTS[variant]
    whole = _find(root, "AllLabels") is not None or _find(root, "TrainTestLabels") is None
    parts = _WHOLE if whole else _HALVES
    lists = [_image_list(root, part.images) for part in parts]
    paths = [path for found in lists for path in found]
    if len(set(paths)) < len(paths):
        raise InputError(f"{root}: a photo stands more than once in {', '.join(part.images for part in parts)}")
    names = _concepts(root, parts[0])
    columns = [
        np.concatenate([_zeros_and_ones(root, p.labels.format(name), len(n)) for p, n in zip(parts, lists)])
        for name in names
    ]
    labels = np.stack(columns, axis=1)
    frequent = np.sort(np.argsort(-labels.sum(axis=0), kind="stable")[: wanted.concepts])
    labels = labels[:, frequent]
    keep = np.flatnonzero(labels.any(axis=1))
    if not len(keep):
        raise InputError(f"{root}: no photo carries any of the {wanted.concepts} most frequent concepts")
    counts = {"photos": len(paths), "concepts": len(names), "pairs": len(keep)}
    differs = PUBLISHED.compare(counts, {"photos": _IMAGES, "concepts": _CONCEPTS, "pairs": wanted.rows}, root)
    texts = [text for part, n in zip(parts, lists) for text in _texts(root, part.tags, len(n))]
    kept = [paths[i] for i in keep.tolist()]
    images, notes = _photos(root, kept)
    samples = Samples(
        ids=tuple(path.rpartition(".")[0] for path in kept),
        images=images,
        texts=[texts[i] for i in keep.tolist()],
        labels=labels[keep],
        label_names=tuple(names[i] for i in frequent.tolist()),
    )
    words = f"{labels.shape[1]} concepts (NUS-WIDE)"
    return RawSet(PUBLISHED, samples, variant, words, wanted.rows, 21_000, None, tuple(differs), notes)


def _find(root: Path, name: str) -> Path | None:
    """Where a file or folder lies: in one of the official folders, or in `root` itself."""
    for folder in ("", "ImageList", "Groundtruth", "NUS_WID_Tags", "ConceptsList"):
        if (root / folder / name).exists():
            return root / folder / name
    return None


def _file(root: Path, name: str, folder: str, what: str) -> Path:
    found = _find(root, name)
    if found is None or not found.is_file():
        raise PUBLISHED.missing(root / folder / name, what)
    return found


def _image_list(root: Path, name: str) -> list[str]:
    path = _file(root, name, "ImageList", "the names of the photos")
    lines = PUBLISHED.lines(path, "the names of the photos")
    return [str(inside(line, f"{path}, line {i}")) for i, line in enumerate(lines, 1)]


def _concepts(root: Path, part: _Part) -> list[str]:
    """The concepts, in alphabetical order: those of Concepts81.txt, or of the label files that are there."""
    listed = _find(root, "Concepts81.txt")
    if listed is not None:
        return sorted(PUBLISHED.lines(listed, "the names of the concepts"))
    folder, _, pattern = part.labels.partition("/")
    before, _, after = pattern.partition("{}")
    found = _find(root, folder)
    names = sorted(p.name for p in found.glob(f"{before}*{after}")) if found else []
    if not names:
        raise PUBLISHED.missing(root / "Groundtruth" / part.labels.format("sky"), "the labels of one concept")
    return [name[len(before) : len(name) - len(after)] for name in names]


def _zeros_and_ones(root: Path, name: str, n: int) -> NDArray[np.bool_]:
    path = _file(root, name, "Groundtruth", "the labels of one concept, 0 or 1 a line")
    digits = np.frombuffer(b"".join(path.read_bytes().split()), np.uint8)
    if (digits >> 1 != ord("0") >> 1).any():
        raise InputError(f"{path} must hold 0 or 1 a line, and nothing else")
    _check_lines(path, len(digits), n)
    return np.asarray(digits == ord("1"))


def _check_lines(path: Path, found: int, n: int) -> None:
    if found != n:
        raise InputError(f"{path} has {found:,} lines for {n:,} photos of the image list; is its download complete?")


def _texts(root: Path, name: str, n: int) -> Iterator[str | None]:
    """The tags of each photo, out of a matrix of 0 and 1; None where it has none of them."""
    listed = PUBLISHED.lines(_file(root, "TagList1k.txt", "NUS_WID_Tags", "the 1,000 tags"), "the 1,000 tags")
    words = np.array(listed)
    path, rows = _file(root, name, "NUS_WID_Tags", "the tags of the photos, 1,000 of 0 and 1 a line"), 0
    with path.open("rb") as file:
        for line in file:
            digits = np.frombuffer(b"".join(line.split()), np.uint8)
            if not len(digits):
                continue
            rows += 1
            if len(digits) != len(words) or (digits >> 1 != ord("0") >> 1).any():
                raise InputError(
                    f"{path}, line {rows}: {len(digits)} characters, blanks aside; it must hold {len(words)} of 0 and 1"
                )
            yield " ".join(words[digits == ord("1")].tolist()) or None
    _check_lines(path, rows, n)


def _photos(root: Path, paths: list[str]) -> tuple[list[Path | None] | None, dict[str, int]]:
    """Where the photos lie; None where there is not one of them."""
    for home in (root / "Flickr", root / "images", root / "Images"):
        if not home.is_dir():
            continue
        known = {str(p.relative_to(home)) for p in home.rglob("*") if p.suffix.lower() == ".jpg"}
        where = [p if p in known else p.rpartition("/")[2] for p in paths]
        found: list[Path | None] = [home / p if p in known else None for p in where]
        absent = sum(p is None for p in found)
        if absent < len(paths):
            if absent:
                warnings.warn(f"{home}: {absent:,} of {len(paths):,} photos are not there", DataWarning, stacklevel=3)
            return found, {"photos that are not there": absent} if absent else {}
    warnings.warn(
        f"{root} holds no photos in Flickr/ or images/, so that only the tags are read; the photos: {PUBLISHED.page}",
        DataWarning,
        stacklevel=3,
    )
    return None, {"photos that are not there": len(paths)}
