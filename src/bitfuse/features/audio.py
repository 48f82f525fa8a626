"""Sounds through a backbone: `audio:<model>` by way of `transformers`, or `audio:pocket`, a fixed spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitfuse.errors import InputError
from bitfuse.features.batches import Batched, Rows
from bitfuse.features.checkpoints import PIXELS
from bitfuse.features.loading import run
from bitfuse.features.sounds import Sound
from bitfuse.features.towers import Tower

_POOLED = ("audio-spectrogram-transformer",)
_AVERAGED = ("wav2vec2", "hubert", "wavlm")


def load(model: str, *, revision: str | None = None, device: str = "cpu") -> Batched:
    """The backbone `audio:<model>`: `"pocket"`, a directory, or a hub id."""
    if model != "pocket":
        return AudioBackbone(model, name=f"audio:{model}", revision=revision, device=device)
    if revision is not None:
        raise InputError(f"audio:pocket has no revisions; drop revision={revision!r}")
    return PocketSound()


class AudioBackbone(Tower):
    """A published model of sounds: CLAP (its projected row), AST (pooled), wav2vec 2, HuBERT, WavLM (mean over time).

    A sound is resampled to the model's rate; of one longer than 30 seconds, or than the model takes, the beginning is
    read. Sounds go through one at a time, so that padding changes nothing. CLAP's rows come at unit length.
    """

    view, needs, part = "sound", (PIXELS,), "sounds"
    unused = ()

    def __init__(self, checkpoint: str, *, name: str, revision: str | None = None, device: str = "cpu") -> None:
        super().__init__(checkpoint, name=name, revision=revision, device=device)
        self.name = f"audio:{self.checkpoint.name}"

    def width(self, view: str) -> int:
        """Number of columns of this view's rows."""
        if self.kind not in ("clap", *_POOLED, *_AVERAGED):
            raise InputError(
                f"{self.checkpoint.name!r} is a model of type {self.kind!r}; sounds are read by clap, "
                f"{', '.join((*_POOLED, *_AVERAGED))}"
            )
        self._require(view)
        return int(self.checkpoint.config["projection_dim"]) if self.kind == "clap" else super().width(view)

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; see `Backbone.describe`."""
        return {**super().describe(view), "normalised": self.kind == "clap"}

    def _encode_batch(self, view: str, batch: list[Any]) -> Rows:
        return np.concatenate([self._one(sound) for sound in batch])

    def _one(self, sound: Sound) -> Rows:
        rate = int(self._processor.sampling_rate)
        # CLAP's own way with a longer sound is to take a random part of it.
        longest = min(30.0, float(getattr(self._processor, "max_length_s", 30.0)))
        samples = sound.first(longest).at(rate).samples[: int(longest * rate)]
        least = int(rate * 0.1)  # the convolutions of wav2vec 2 take no less than 25 ms
        samples = np.pad(samples, (0, max(0, least - len(samples))))
        inputs = self._processor(samples, sampling_rate=rate, return_tensors="pt")
        if self.kind == "clap":
            inputs["is_longer"] = inputs["is_longer"] & False
            return run(self._model, inputs, lambda given: self._model.get_audio_features(**given).pooler_output)
        if self.kind in _POOLED:
            return run(self._model, inputs, lambda given: self._model(**given).pooler_output)
        return run(self._model, inputs, lambda given: self._model(**given).last_hidden_state.mean(dim=1))


class PocketSound(Batched):
    """A fixed spectrum of a sound, nothing learned: 128 columns, enough to tell pitches and loudness apart.

    The first 10 seconds at 8,000 samples a second, in windows of 128 ms every 32 ms; the power of each in 64 bands,
    evenly spaced in pitch from 200 to 3,800 Hz; log(1 + power). A row is the mean over time of each band, then its
    standard deviation over time.
    """

    name = "audio:pocket"
    views: tuple[str, ...] = ("sound",)
    note = "the pocket encoder of sounds is a fixed spectrum: it knows pitch and loudness, and no speech or source"

    RATE, WINDOW, STEP, BANDS, SECONDS = 8000, 1024, 256, 64, 10.0

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; see `Backbone.describe`."""
        return {"backbone": self.name, "revision": None, "weights": None, "preprocessing": "spectrum 1", "width": 128}

    def width(self, view: str) -> int:
        """128."""
        self._require(view)
        return 2 * self.BANDS

    def _load(self) -> None:
        edges = np.geomspace(200, 3800, self.BANDS + 2)
        bins = np.fft.rfftfreq(self.WINDOW, 1 / self.RATE)
        rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
        self._bands = np.maximum(0, np.minimum(rising, falling))  # (64, bins): triangles
        # The lowest bands are narrower than the spacing of the bins: each counts at least its nearest bin.
        self._bands[np.arange(self.BANDS), np.abs(bins - edges[1:-1, None]).argmin(axis=1)] = 1
        self._bands /= self._bands.sum(axis=1, keepdims=True)

    def _batch_size(self, view: str) -> int:
        return 256

    def _encode_batch(self, view: str, batch: list[Any]) -> Rows:
        return np.stack([self._one(sound) for sound in batch])

    def _one(self, sound: Sound) -> Rows:
        x = sound.first(self.SECONDS).at(self.RATE).samples
        x = np.pad(x, (0, max(0, self.WINDOW - len(x))))
        windows = np.lib.stride_tricks.sliding_window_view(x, self.WINDOW)[:: self.STEP]  # (time, window)
        power = np.abs(np.fft.rfft(windows * np.hanning(self.WINDOW))) ** 2
        levels = np.log1p(power @ self._bands.T)  # (time, 64)
        return np.concatenate([levels.mean(axis=0), levels.std(axis=0)]).astype(np.float32)
