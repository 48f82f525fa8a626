"""Checks of how rows become codes: one by one, whatever the order, and with views that are missing or malformed."""

from __future__ import annotations

from functools import partial

import numpy as np

from bitfuse.checks.tools import N_BITS, WIDTHS, Factory, clusters, fitted, raises, same, spaces_of, view_names
from bitfuse.codes import Codes
from bitfuse.errors import InputError, MissingView

CERTAIN = 1e-5
"""Values before the sign nearer to zero than this may fall either way."""


def shapes_and_dtypes(make: Factory) -> None:
    """Project gives float32 (n, n_bits), encode its sign, at 8, 13 and 64 bits and in every space."""
    views, labels = clusters(view_names(make))
    for n_bits in (8, 13, 64):
        hasher = fitted(make, views, labels, n_bits=n_bits)
        for space, read in spaces_of(hasher, views):
            z, codes = hasher.project(read, space), hasher.encode(read, space)
            assert z.dtype == np.float32, f"project gives {z.dtype}, not float32"
            assert z.shape == (128, n_bits), f"project gives {z.shape}, not (128, {n_bits}), in space {space!r}"
            assert codes.packed.shape == (128, -(-n_bits // 8)), f"codes have the shape {codes.packed.shape}"
            same(codes, Codes.from_real(z), f"between encode and the sign of project, in space {space!r}")


def row_wise(make: Factory) -> None:
    """A row alone has the bits that it has in a batch, wherever the value is not within 1e-5 of zero."""
    views, labels = clusters(view_names(make))
    hasher = fitted(make, views, labels)
    fresh, _ = clusters(list(views), n=40, seed=3)
    for space, read in spaces_of(hasher, fresh):
        z = hasher.project(read, space)
        alone = np.concatenate([hasher.project({k: x[i : i + 1] for k, x in read.items()}, space) for i in range(40)])
        backwards = hasher.project({k: x[::-1] for k, x in read.items()}, space)[::-1]
        for other, how in ((alone, "alone"), (backwards, "in another order")):
            flipped = int((((z > 0) != (other > 0)) & (np.abs(z) >= CERTAIN)).sum())
            assert not flipped, f"{flipped} bits change when rows come {how}, in space {space!r}"


def view_order_irrelevant(make: Factory) -> None:
    """The order in which views are named does not matter."""
    views, labels = clusters(view_names(make))
    turned = dict(reversed(views.items()))
    a, b = fitted(make, views, labels), fitted(make, turned, labels)
    same(a.encode(views), b.encode(turned), "when the views are given in another order")
    same(a.encode(views), a.encode(turned), "when the views of queries are given in another order")


def missing_views(make: Factory) -> None:
    """A row wholly NaN lacks that view, an absent key lacks it for all; partly NaN or infinite rows are errors."""
    views, labels = clusters(view_names(make))
    hasher = fitted(make, views, labels)
    for bad in (np.nan, np.inf):
        broken = {k: x.copy() for k, x in views.items()}
        broken["image"][5, 3] = bad
        raises(ValueError, partial(hasher.project, broken), f"when a row holds one {bad}")
    nothing = {k: np.where(np.arange(len(x))[:, None] == 5, np.nan, x) for k, x in views.items()}
    for call in (lambda: hasher.encode(nothing), lambda: fitted(make, nothing, labels)):
        error = raises(MissingView, call, "when a row has no view at all")
        assert error.rows == [5], "MissingView does not name the row"
    if len(views) == 1:
        return
    last = list(views)[-1]
    some = {**views, last: np.where(np.arange(128)[:, None] % 4 == 0, np.nan, views[last])}
    lacking = list(range(0, 128, 4))
    if hasher.accepts_missing == "train+query":
        partly = fitted(make, some, labels)
        assert partly.encode(some).n_bits == N_BITS, "codes of rows that lack a view have another length"
    else:
        error = raises(MissingView, lambda: fitted(make, some, labels), "when training rows lack a view")
        assert error.rows == lacking, "MissingView does not name the rows"
    for space, _ in spaces_of(hasher, views):
        absent = {k: x for k, x in views.items() if k != last}
        filled = {**views, last: np.full_like(views[last], np.nan)}
        if space in views or hasher.accepts_missing == "none":
            space = last if space in views else space
            raises(MissingView, partial(hasher.encode, some, space), f"in space {space!r}")
        else:
            same(hasher.encode(absent, space), hasher.encode(filled, space), "between an absent key and NaN rows")
            whole = np.setdiff1d(np.arange(128), lacking)
            z, full = hasher.project(some, space), hasher.project(views, space)
            assert np.allclose(z[whole], full[whole], atol=1e-4), "rows that lack a view change the others"


def wrong_width_rejected(make: Factory) -> None:
    """Other widths, unknown views and arrays of the wrong shape are refused."""
    views, labels = clusters(view_names(make))
    hasher = fitted(make, views, labels)
    raises(InputError, lambda: hasher.encode({**views, "image": views["image"][:, 1:]}), "for a view too narrow")
    raises(InputError, lambda: hasher.encode({**views, "smell": views["image"]}), "for a view it was not fitted on")
    raises(InputError, lambda: hasher.encode({**views, "image": views["image"][0]}), "for a one-dimensional view")
    raises(InputError, lambda: hasher.encode(views, "no such space"), "for a space it does not have")


def one_two_three_views(make: Factory) -> None:
    """One, two and three views work where the method allows as many, and are refused where it does not."""
    example = make(n_bits=N_BITS, seed=0)
    for count in (1, 2, 3):
        views, labels = clusters(list(WIDTHS)[:count])
        if example.min_views <= count <= (example.max_views or count):
            codes = fitted(make, views, labels).encode(views, None if "fused" in example.spaces else "image")
            assert len(codes) == 128, f"{len(codes)} codes for 128 rows of {count} view(s)"
        else:
            raises(InputError, partial(fitted, make, views, labels), f"with {count} view(s)")
