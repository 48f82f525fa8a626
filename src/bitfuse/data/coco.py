"""MS COCO in its official layout: instances and captions as JSON, the pictures of two parts in two folders."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Samples
from bitfuse.data.published import Published, RawSet, inside
from bitfuse.errors import DataWarning, InputError, UnknownName

PUBLISHED = Published(
    "MS COCO", "cocodataset.org, Download (the train and val pictures and annotations of 2014 or 2017)"
)
_CATEGORIES = 80
_KEPT = {"images", "annotations", "categories", "id", "file_name", "image_id", "category_id", "caption", "name"}


@dataclass(frozen=True)
class Variant:
    """Published counts of a year: pictures and captions of the train and the val part."""

    train: int
    val: int
    captions: tuple[int, int]


VARIANTS = {"2014": Variant(82_783, 40_504, (414_113, 202_654)), "2017": Variant(118_287, 5_000, (591_753, 25_014))}


@dataclass(frozen=True, eq=False)
class _Part:
    ids: list[int]
    images: list[Path | None]
    texts: list[str | None]
    labels: NDArray[np.bool_]
    names: tuple[str, ...]
    captions: int


def read_coco(root: str | Path, variant: str = "2014") -> RawSet:
    """Read the official layout under `root`.

    `annotations/instances_train2014.json`, `captions_train2014.json` and the same for `val2014`, pictures in
    `train2014/` and `val2014/`, also under `images/`. Labels are the 80 categories of the instances; the text is the
    caption of lowest id. The train part is the gallery, unlabelled pictures included (82,783 in the papers), and
    queries are drawn from the val part.

    Args:
        root: the folder.
        variant: `"2014"` or `"2017"`.

    Raises:
        InputError: a file is missing or no complete JSON; an id that occurs twice, or that nothing has.
        UnknownName: another variant.
    """
    root = Path(root)
    if variant not in VARIANTS:
        raise UnknownName("variant of coco", variant, VARIANTS)
    known = VARIANTS[variant]
    train, val = (_part(root, f"{part}{variant}") for part in ("train", "val"))
    if train.names != val.names:
        raise InputError(f"{root}: the train and val instances name different categories; get both of one year")
    if twice := set(train.ids) & set(val.ids):
        raise InputError(f"{root}: picture {min(twice)} is in both the train and the val part; get both of one year")
    counts = {
        "train pictures": len(train.ids),
        "val pictures": len(val.ids),
        "train captions": train.captions,
        "val captions": val.captions,
        "categories": len(train.names),
    }
    stated = dict(zip(counts, (known.train, known.val, *known.captions, _CATEGORIES)))
    differs = PUBLISHED.compare(counts, stated, root)
    images = train.images + val.images
    absent = sum(path is None for path in images)
    if absent:
        warnings.warn(f"{root}: {absent:,} of {len(images):,} pictures are not there", DataWarning, stacklevel=2)
    samples = Samples(
        ids=tuple(map(str, train.ids + val.ids)),
        images=images,
        texts=train.texts + val.texts,
        labels=np.concatenate([train.labels, val.labels]),
        label_names=train.names,
    )
    notes = {"text": "the caption of lowest id"} | ({"pictures that are not there": absent} if absent else {})
    from_val = np.arange(len(samples)) >= len(train.ids)
    words = f"{len(train.names)} categories (MS COCO)"
    rows = known.train + known.val
    return RawSet(PUBLISHED, samples, variant, words, rows, 18_000, from_val, tuple(differs), notes)


def _part(root: Path, part: str) -> _Part:
    folder = root / "annotations"
    instances, captions = folder / f"instances_{part}.json", folder / f"captions_{part}.json"
    found = PUBLISHED.json(instances, "the instances", _kept)
    images, categories = _records(found, "images", instances), _records(found, "categories", instances)
    ids = [_number(image, "id", instances) for image in images]
    place = _places(ids, "picture", instances)
    numbers = [_number(category, "id", instances) for category in categories]
    column = _places(numbers, "category", instances)
    labels = np.zeros((len(ids), len(numbers)), bool)
    for row in _records(found, "annotations", instances):
        labels[_at(place, row, "image_id", instances), _at(column, row, "category_id", instances)] = True
    written = _records(PUBLISHED.json(captions, "the captions", _kept), "annotations", captions)
    first: dict[int, tuple[int, str]] = {}
    for row in written:
        at, caption = _at(place, row, "image_id", captions), (_number(row, "id", captions), str(row.get("caption", "")))
        first[at] = min(first.get(at, caption), caption)
    _places([_number(row, "id", captions) for row in written], "caption", captions)
    texts = [first[i][1].strip() or None if i in first else None for i in range(len(ids))]
    names = tuple(str(category.get("name", "")) for category in categories)
    return _Part(ids, _pictures(root, part, images, instances), texts, labels, names, len(written))


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    """Outlines and boxes are nine tenths of the file."""
    return {k: v for k, v in record.items() if k in _KEPT}


def _records(found: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    records = found.get(key)
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path} has no list of records under {key!r}; is it the official file?")
    return records


def _number(record: dict[str, Any], key: str, path: Path) -> int:
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{path}: {key} must be a whole number, got {value!r} in {str(record)[:80]}")
    return value


def _places(ids: list[int], what: str, path: Path) -> dict[int, int]:
    place = {name: i for i, name in enumerate(ids)}
    if len(place) < len(ids):
        twice = next(name for i, name in enumerate(ids) if place[name] != i)
        raise InputError(f"{path}: {what} id {twice} occurs more than once; get the file again")
    return place


def _at(place: dict[int, int], record: dict[str, Any], key: str, path: Path) -> int:
    number = _number(record, key, path)
    if number not in place:
        raise InputError(
            f"{path}: {key} {number} is not in the list of instances' file; the files do not belong together"
        )
    return place[number]


def _pictures(root: Path, part: str, images: list[dict[str, Any]], path: Path) -> list[Path | None]:
    home = next((f for f in (root / part, root / "images" / part) if f.is_dir()), None)
    if home is None:
        raise PUBLISHED.missing(root / part, "the pictures")
    known = {p.name for p in home.iterdir()}
    names = [inside(str(image.get("file_name", "")), str(path)).name for image in images]
    return [home / name if name in known else None for name in names]
