"""`bitfuse.dataset`: a name or a path becomes train, query and gallery with features."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bitfuse.data import shapes
from bitfuse.data.base import Dataset, Samples
from bitfuse.data.read import read
from bitfuse.data.sets import NAMES
from bitfuse.data.split import split
from bitfuse.errors import DataWarning, InputError, UnknownName
from bitfuse.features.base import Backbone
from bitfuse.pipeline.cache import cache_dir, fingerprint, warn_unwritable
from bitfuse.pipeline.extract import extract
from bitfuse.pipeline.published import published
from bitfuse.pipeline.shapes_views import check_views, with_views

DEFAULT_BACKBONE = "openai/clip-vit-base-patch32"

_SHAPES_RANGE = 1_000_000
"""Item numbers that each part of the shapes data set has for itself."""

_SPLIT = ("n_query", "query_share", "per_class", "train", "unseen")


def dataset(name_or_path: str | Path, **options: Any) -> Dataset:
    """A data set by name, or out of a table, a folder of pictures or a file of arrays.

    `"shapes"` is the generated world (a folder of that name is `"./shapes"`): `n_train` 2000, `n_query` 300,
    `n_gallery` 2000, `seed` 0, `backbone` "pocket", `size` 48 pixels, `style`
    "flat" (how they are drawn, `bitfuse.data.scenes.STYLES`), `views` (some of "image", "text", "sound" and "frames";
    default: those that the backbone encodes). The three parts are different scenes.

    `"flickr25k"`, `"nuswide"`, `"coco"`, `"roco"` and `"rsicd"` are published sets in their official layout: `root`
    (the folder; nothing is downloaded), `backbone` (default `openai/clip-vit-base-patch32`), and for the first three
    `variant` (`bitfuse.data.sets.NAMES`), `seed`, `per_class` 100 and `train` of the split recipe `per-class`.

    Of a path, options are `backbone` (default `openai/clip-vit-base-patch32`; a file of arrays needs none), `n_query`,
    `query_share`, `per_class`, `train`, `unseen` and `seed` of `bitfuse.data.split.split`, and what the reader takes:
    `image`, `text`, `labels`, `label_sep`, `id`, `root` for a table, `labels` for a folder, `views` for arrays. Arrays
    that come in parts of their own are not split again.

    All take `cache` (True, a folder, or False for none) and `progress`.

    Args:
        name_or_path: the name, or a path.
        options: see above.

    Returns:
        A Dataset with `views` filled; rows that could not be used are named in `notes["skipped"]`, with a warning.

    Raises:
        InputError: no such data, a bad row or file, or an option that this data does not have.

    Examples:
        >>> import bitfuse as bf
        >>> world = bf.dataset("shapes", n_train=32, n_query=4, n_gallery=32)
        >>> len(world.train), len(world.query), world.train_in_gallery, sorted(world.query.views)
        (32, 4, 'none', ['image', 'text'])
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise InputError(f"a data set is named by a string or a path, got {name_or_path!r:.80}")
    if name_or_path == "shapes":
        known = set(inspect.signature(_shapes).parameters)
        if unknown := set(options) - known:
            raise UnknownName("option of shapes", min(unknown), known)
        return _shapes(**options)
    if name_or_path in NAMES:
        return _named(str(name_or_path), **options)
    if not Path(name_or_path).exists():
        raise UnknownName(
            "data set", str(name_or_path), ["shapes", *NAMES], "or give the path of a file or folder that exists"
        )
    return _from_path(Path(name_or_path), **options)


def _named(name: str, *, backbone: str | Backbone = DEFAULT_BACKBONE, **options: Any) -> Dataset:
    known = set(inspect.signature(published).parameters) - {"name", "encoder"} | {"backbone"}
    if unknown := set(options) - known:
        raise UnknownName(f"option of {name}", min(unknown), known)
    if "root" not in options:
        raise InputError(f"{name} is read from its official files; give root=, the folder that holds them")
    return published(name, _loaded(backbone), **options)


def _from_path(
    path: Path, *, backbone: str | Backbone | None = None, seed: int = 0, cache: bool | str | Path = True,
    progress: bool = False, **options: Any,
) -> Dataset:  # fmt: skip
    how = {k: options.pop(k) for k in _SPLIT if k in options}
    samples = read(path, **options)
    if (isinstance(samples, Dataset) or samples.views) and backbone is not None:
        raise InputError(f"{path} holds features already; leave backbone= out")
    if isinstance(samples, Dataset):
        if how:
            raise InputError(f"{path} brings its own train and query parts; leave {', '.join(how)} out")
        return samples
    skipped: list[tuple[str, str]] = []
    if not samples.views:
        samples, skipped = extract(samples, _loaded(backbone or DEFAULT_BACKBONE), cache=cache, progress=progress)
    if skipped:
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        warnings.warn(
            f"{path}: {len(skipped)} row(s) with inputs that cannot be used: {shown}", DataWarning, stacklevel=3
        )
    whole = split(samples, seed=seed, name=path.stem, **how)
    return Dataset(whole.name, whole.train, whole.query, whole.gallery, {**whole.notes, "skipped": skipped})


def _shapes(
    *, n_train: int = 2000, n_query: int = 300, n_gallery: int = 2000, seed: int = 0, size: int = 48,
    style: str = "flat", views: Sequence[str] | None = None, backbone: str | Backbone = "pocket",
    cache: bool | str | Path = True, progress: bool = False,
) -> Dataset:  # fmt: skip
    asked = check_views(views) if views is not None else None
    counts = {"gallery": n_gallery, "query": n_query, "train": n_train}
    if bad := {part: n for part, n in counts.items() if not 1 <= n <= _SHAPES_RANGE}:
        raise InputError(f"the parts of shapes have 1 to {_SHAPES_RANGE:,} scenes, got {bad}")
    encoder = _loaded(backbone)
    folder = cache_dir() if cache is True else Path(cache) if cache else None
    parts = {}
    for i, (part, n) in enumerate(counts.items()):
        where = {"n": n, "seed": seed, "start": i * _SHAPES_RANGE, "size": size}
        parts[part] = _scenes(where, style, encoder, folder, progress)
        if asked is not None:
            parts[part] = with_views(
                parts[part], asked, seed=seed, start=where["start"], size=size, style=style, folder=folder
            )
    drawn = "" if style == "flat" else f"{style}, "
    name = f"shapes ({drawn}seed {seed}, {n_train} train, {n_query} query, {n_gallery} gallery)"
    return Dataset(name, **parts, notes={"seed": seed, "size": size, "style": style, "backbone": encoder.name})


def _loaded(backbone: str | Backbone) -> Backbone:
    from bitfuse.features import backbone as load

    return load(backbone) if isinstance(backbone, str) else backbone


def _scenes(where: dict[str, int], style: str, encoder: Backbone, folder: Path | None, progress: bool) -> Samples:
    """Scenes with features, from the cache where they are known."""
    first = shapes.generate(4, size=where["size"], style=style)  # stands for the version of the world, and the style
    drawn = hashlib.sha256(b"".join(bytes(p) for p in first.images or () if isinstance(p, bytes)))
    facts = {v: dict(encoder.describe(v)) for v in encoder.views}
    key = fingerprint({**where, "drawn": drawn.hexdigest(), "texts": first.texts, "backbone": facts})
    file = folder / "shapes" / f"{key}.safetensors" if folder else None
    if file and (known := _restore(file)):
        return known
    samples, _ = extract(shapes.generate(**where, style=style), encoder, progress=progress)
    if file:
        try:
            _store(file, samples)
        except OSError as error:
            warn_unwritable(file.parent, error)
    return samples


def _store(file: Path, samples: Samples) -> None:
    pictures = [p for p in samples.images or () if isinstance(p, bytes)]
    tensors: dict[str, NDArray[Any]] = {f"view {name}": x for name, x in samples.views.items()}
    tensors["pictures"] = np.frombuffer(b"".join(pictures), np.uint8)
    tensors["ends"] = np.cumsum([len(p) for p in pictures])
    if samples.labels is not None:
        tensors["labels"] = samples.labels
    rest = {k: getattr(samples, k) for k in ("ids", "texts", "label_names", "attributes", "sources")}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.partial")
    save_file(tensors, temporary, metadata={"samples": json.dumps(rest)})
    temporary.replace(file)


def _restore(file: Path) -> Samples | None:
    try:
        with safe_open(file, "np") as stored:
            rest = json.loads(stored.metadata()["samples"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError):  # not there yet, or damaged: made anew
        return None
    data, ends = tensors["pictures"].tobytes(), [0, *tensors["ends"].tolist()]
    return Samples(
        ids=tuple(rest["ids"]),
        views={name.removeprefix("view "): x for name, x in tensors.items() if name.startswith("view ")},
        images=[data[a:b] for a, b in pairwise(ends)],
        texts=rest["texts"],
        labels=tensors.get("labels"),
        label_names=tuple(rest["label_names"]),
        attributes=rest["attributes"],
        sources=rest["sources"],
    )
