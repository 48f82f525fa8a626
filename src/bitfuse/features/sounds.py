"""Opening sounds that strangers made: WAV files of 16-bit PCM, with limits; no other library is needed."""

from __future__ import annotations

import io
import math
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.features.images import read_bytes

MAX_SECONDS = 3600
_RATES = (1_000, 384_000)
_CHANNELS = 64


@dataclass(frozen=True, eq=False)
class Sound:
    """One channel of sound.

    Attributes:
        rate: samples a second, at least 1.
        samples: (n,) float32 in [-1, 1], at least one.

    Raises:
        InputError: no samples, more than one channel, values that are not finite, or a rate below 1.
    """

    rate: int
    samples: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or not len(self.samples) or self.rate < 1:
            raise InputError(f"a sound needs (n,) samples and a rate, got {self.samples.shape} at {self.rate}")
        if not np.isfinite(self.samples).all():
            raise InputError("a sound holds samples that are not finite")

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate

    def at(self, rate: int) -> Sound:
        """The same sound at another rate, by a polyphase filter."""
        if rate == self.rate:
            return self
        from scipy.signal import resample_poly

        shared = math.gcd(rate, self.rate)
        samples = resample_poly(self.samples, rate // shared, self.rate // shared)
        return Sound(rate, np.asarray(samples, np.float32))

    def first(self, seconds: float) -> Sound:
        """Its beginning, at most this long."""
        return Sound(self.rate, self.samples[: max(1, int(seconds * self.rate))])


def open_sound(source: Path | bytes, *, max_seconds: float = MAX_SECONDS, name: str | None = None) -> Sound:
    """Read a WAV file of 16-bit PCM; several channels become one, their mean.

    Args:
        source: a file of at most 256 MiB, or the bytes of one.
        max_seconds: how long it may last.
        name: what messages call it (default: the file's name, or the number of bytes).

    Raises:
        InputError: missing, empty, not a WAV file, of other samples than 16-bit PCM, truncated, or too long.

    Examples:
        >>> from bitfuse.data.shapes_sound import sound
        >>> from bitfuse.features.sounds import open_sound
        >>> open_sound(sound(0, 1)).seconds
        0.8
    """
    name = name or (source.name if isinstance(source, Path) else f"{len(source)} bytes")
    data = read_bytes(source)
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, bytes_each, rate, n = file.getparams()[:4]
            if bytes_each != 2:
                raise InputError(f"{name}: samples of {8 * bytes_each} bits; convert it to a WAV file of 16-bit PCM")
            if not 1 <= channels <= _CHANNELS or not _RATES[0] <= rate <= _RATES[1]:
                raise InputError(
                    f"{name}: {channels} channel(s) at {rate} Hz; 1 to {_CHANNELS} channels at {_RATES[0]:,} to "
                    f"{_RATES[1]:,} Hz are read"
                )
            if n > max_seconds * rate:
                raise InputError(f"{name}: {n / rate:.0f} seconds are over the limit of {max_seconds:g}; cut it")
            stored = file.readframes(n)
    except (wave.Error, EOFError) as error:
        raise InputError(f"{name}: not a WAV file of 16-bit PCM ({error or 'it ends early'}); convert it") from error
    if not stored or len(stored) != 2 * n * channels:
        raise InputError(f"{name}: truncated, {len(stored)} of {2 * n * channels} bytes of samples; copy it again")
    samples = np.frombuffer(stored, "<i2").reshape(n, channels).astype(np.float32).mean(axis=1) / 32768
    return Sound(rate, np.asarray(samples, np.float32))
