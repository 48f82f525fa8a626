"""Binary codes: the only definition of sign, packing and Hamming distance. `bitfuse.kernels` holds tested twins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bitfuse.errors import DamagedFile, InputError, UnknownFormat

MAX_BITS = 4096
FORMAT = 1
_ROWS_PER_BLOCK = 1 << 22  # bytes of XOR that `hamming` holds at once


def check_n_bits(n_bits: int) -> int:
    """Return `n_bits` if it is an integer from 1 to 4096; raise `InputError` otherwise."""
    if isinstance(n_bits, bool) or not isinstance(n_bits, int | np.integer) or not 1 <= n_bits <= MAX_BITS:
        raise InputError(f"n_bits must be an integer from 1 to {MAX_BITS}, got {n_bits!r}")
    return int(n_bits)


def as_array(value: ArrayLike, what: str) -> NDArray[Any]:
    """Anything as an array; raise `InputError`, which says `what` it should have been, where numpy cannot."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{what} must be an array of numbers, got {type(value).__name__}: {error}") from error


class Codes:
    """Rows of `n_bits` bits, packed eight to a byte, big-endian as `numpy.packbits`; pad bits are zero. Immutable.

    Args:
        packed: (n, ceil(n_bits / 8)) uint8. Kept without a copy when it is C-contiguous.
        n_bits: code length, 1 to 4096.

    Raises:
        InputError: wrong dtype, shape or code length, or a pad bit that is set.

    Examples:
        >>> import numpy as np
        >>> codes = Codes.from_real(np.array([[0.5, -1.0, 0.0], [2.0, 3.0, -0.1]]))
        >>> codes.signs()
        array([[ 1, -1, -1],
               [ 1,  1, -1]], dtype=int8)
        >>> codes.hamming(codes)
        array([[0, 1],
               [1, 0]], dtype=int32)
    """

    __slots__ = ("n_bits", "packed")

    n_bits: int
    packed: NDArray[np.uint8]

    def __init__(self, packed: NDArray[np.uint8], n_bits: int) -> None:
        n_bits = check_n_bits(n_bits)
        array = as_array(packed, "packed codes")
        width = -(-n_bits // 8)
        if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != width:
            raise InputError(
                f"packed codes of {n_bits} bits must be uint8 of shape (n, {width}), got {array.dtype} {array.shape}; "
                "use Codes.from_real for real values and Codes.from_bits for bits"
            )
        if n_bits % 8 and len(array) and (array[:, -1] & (0xFF >> n_bits % 8)).any():
            raise InputError(f"pad bits beyond bit {n_bits} must be zero; pack with numpy.packbits(bits, axis=1)")
        array = np.ascontiguousarray(array).view()
        array.flags.writeable = False
        object.__setattr__(self, "packed", array)
        object.__setattr__(self, "n_bits", n_bits)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Codes are immutable; cannot set {name!r}")

    def __reduce__(self) -> tuple[type[Codes], tuple[NDArray[np.uint8], int]]:
        return Codes, (self.packed, self.n_bits)

    @classmethod
    def from_real(cls, z: ArrayLike) -> Codes:
        """Codes of real values: bit = z > 0, the one sign rule (0 and -0 give a zero bit).

        Args:
            z: (n, n_bits) finite numbers.

        Raises:
            InputError: not two-dimensional, or NaN or infinite values.
        """
        values = as_array(z, "values to binarise")
        if values.ndim != 2 or values.dtype.kind not in "biuf":
            raise InputError(
                f"values to binarise must be numbers of shape (n, n_bits), got {values.dtype} {values.shape}"
            )
        if not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
            raise InputError(f"values to binarise must be finite; {len(rows)} row(s) are not, the first is {rows[0]}")
        return cls.from_bits(values > 0)

    @classmethod
    def from_bits(cls, bits: ArrayLike) -> Codes:
        """Codes of bits.

        Args:
            bits: (n, n_bits) booleans, or integers 0 and 1.

        Raises:
            InputError: other values, or not two-dimensional.
        """
        array = as_array(bits, "bits")
        if array.ndim != 2 or not (array.dtype == bool or np.isin(array, (0, 1)).all()):
            raise InputError(f"bits must be 0 or 1, of shape (n, n_bits); got {array.dtype} {array.shape}")
        return cls(np.packbits(array.astype(bool), axis=1), array.shape[1])

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: slice | NDArray[np.integer] | NDArray[np.bool_] | list[int] | int) -> Codes:
        picked = self.packed[rows]
        return Codes(picked[None] if picked.ndim == 1 else picked, self.n_bits)

    def __iter__(self) -> Iterator[Codes]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codes):
            return NotImplemented
        return self.n_bits == other.n_bits and np.array_equal(self.packed, other.packed)

    def __repr__(self) -> str:
        return f"Codes({len(self)} x {self.n_bits} bits)"

    def bits(self) -> NDArray[np.uint8]:
        """The bits as 0 and 1: (n, n_bits) uint8."""
        return np.unpackbits(self.packed, axis=1, count=self.n_bits)

    def signs(self) -> NDArray[np.int8]:
        """The bits as -1 and +1: (n, n_bits) int8."""
        return (self.bits().astype(np.int8) << 1) - 1

    def words(self) -> NDArray[np.uint64]:
        """The codes as machine words, padded with zero bytes: (n, ceil(n_bits / 64)) uint64. For the kernels."""
        n_words = -(-self.n_bits // 64)
        out = np.zeros((len(self), n_words * 8), np.uint8)
        out[:, : self.packed.shape[1]] = self.packed
        return out.view(np.uint64)

    def hamming(self, other: Codes) -> NDArray[np.int32]:
        """All Hamming distances to another set of codes: (n, m) int32, from 0 to n_bits.

        Args:
            other: m codes of the same length.

        Raises:
            InputError: the code lengths differ.
        """
        if not isinstance(other, Codes):
            raise InputError(f"codes are compared with codes, got {type(other).__name__}; see Codes.from_real")
        if self.n_bits != other.n_bits:
            raise InputError(f"codes of {self.n_bits} and {other.n_bits} bits cannot be compared; use one code length")
        a, b = self.words(), other.words()
        out = np.empty((len(a), len(b)), np.int32)
        step = max(1, _ROWS_PER_BLOCK // max(1, b.size * 8))
        for i in range(0, len(a), step):
            out[i : i + step] = np.bitwise_count(a[i : i + step, None] ^ b[None]).sum(axis=2, dtype=np.int32)
        return out

    @staticmethod
    def concatenate(parts: Iterable[Codes]) -> Codes:
        """One set of codes out of several, in order.

        Args:
            parts: one or more, of the same length.

        Raises:
            InputError: none, or of several lengths.
        """
        listed = list(parts) if isinstance(parts, Iterable) else [parts]
        if not all(isinstance(p, Codes) for p in listed):
            raise InputError(f"only codes can be concatenated, got {sorted({type(p).__name__ for p in listed})}")
        if not listed or len({p.n_bits for p in listed}) > 1:
            raise InputError(f"need codes of one length to concatenate, got {[p.n_bits for p in listed]}")
        return Codes(np.concatenate([p.packed for p in listed]), listed[0].n_bits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with `packed` and the code length.

        Args:
            path: of the file; one that is there is replaced. It appears whole or not at all.
        """
        target = Path(path)
        header = {"bitfuse": json.dumps({"format": FORMAT, "kind": "codes", "n_bits": self.n_bits})}
        temporary = Path(f"{target}.partial")
        try:
            temporary.write_bytes(save({"packed": np.ascontiguousarray(self.packed)}, metadata=header))
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codes:
        """Read what `save` wrote.

        Args:
            path: of the file.

        Raises:
            DamagedFile: not a code file, or truncated.
            UnknownFormat: written by a newer version.
        """
        try:
            with safe_open(Path(path), "np") as file:
                header = json.loads((file.metadata() or {}).get("bitfuse", "{}"))
                if header.get("kind") != "codes":
                    raise DamagedFile(f"{path} is a safetensors file, but does not hold codes that Bitfuse wrote")
                if header["format"] > FORMAT:
                    raise UnknownFormat(f"{path} has code format {header['format']}, this version reads up to {FORMAT}")
                return cls(file.get_tensor("packed"), header["n_bits"])
        except SafetensorError as error:
            raise DamagedFile(f"{path} is not a code file or is truncated: {error}") from error
