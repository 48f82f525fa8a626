"""The sound of a scene of the generated world: one note for each object, in noise.

A sound lasts 0.8 seconds at 8,000 samples a second. The objects sound one after the other, 0.2 seconds each: the
colour is the pitch (12 colours, 12 semitones), a large object is loud and has an overtone, a small one is faint. So
a sound tells the number of objects, their colours and their sizes, and nothing of shapes, textures, places or the
background. Every note is out of tune by up to two fifths of a semitone, and loud white noise lies over all.
"""

from __future__ import annotations

import io
import wave

import numpy as np

from bitfuse.data.scenes import COLOURS, scene

RATE = 8000
NOTE_SECONDS = 0.2
_NOTES = 4
_LOWEST = 523.25  # hertz, of the first colour
_DETUNE = 0.4  # of a semitone, at most
_LOUD, _FAINT, _NOISE = 0.3, 0.12, 0.6  # amplitudes of full scale


def sound(seed: int, item: int) -> bytes:
    """The sound of scene number `item` of this seed: a WAV file, mono, 16 bits, 6,400 samples.

    Examples:
        >>> from bitfuse.data.shapes_sound import sound
        >>> len(sound(0, 1)), sound(0, 1) == sound(0, 1)
        (12844, True)
    """
    draw = np.random.default_rng([seed, item, 1])
    length = int(RATE * NOTE_SECONDS)
    time = np.arange(length) / RATE
    played = draw.uniform(-_NOISE, _NOISE, _NOTES * length)
    for i, thing in enumerate(scene(seed, item).things):
        semitones = list(COLOURS).index(thing.colour) + draw.uniform(-_DETUNE, _DETUNE)
        phase = 2 * np.pi * (_LOWEST * 2 ** (semitones / 12) * time + draw.random())
        note = np.sin(phase) + (0.5 * np.sin(2 * phase) if thing.large else 0)
        note *= np.exp(-6 * time)  # dies away, as a struck string does
        played[i * length : (i + 1) * length] += (_LOUD if thing.large else _FAINT) * note
    return _wav(np.round(np.clip(played, -1, 1) * 32767).astype("<i2").tobytes())


def _wav(samples: bytes) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples)
    return out.getvalue()
