"""A bag of words over a vocabulary that the training texts give: what the papers read of tags."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bitfuse.errors import DamagedFile, InputError, UnknownFormat
from bitfuse.features.batches import Rows

FORMAT = 1


@dataclass(frozen=True)
class Vocabulary:
    """The words of a bag of words, in order: column i of a row is 1 where word i occurs in the text.

    Attributes:
        words: distinct, lower case.
    """

    words: tuple[str, ...]

    @classmethod
    def learn(cls, texts: Iterable[str | None], min_count: int = 20) -> Vocabulary:
        """The words that occur in at least `min_count` of the training texts, in alphabetical order.

        Raises:
            InputError: no word occurs that often.

        Examples:
            >>> from bitfuse.features.bow import Vocabulary
            >>> Vocabulary.learn(["a red star", "Red ring", None], min_count=2).words
            ('red',)
        """
        if min_count < 1:
            raise InputError(f"min_count must be at least 1, got {min_count}")
        counts = Counter(word for text in texts for word in set(_words(text or "")))
        kept = tuple(sorted(word for word, n in counts.items() if n >= min_count))
        if not kept:
            raise InputError(f"no word occurs in {min_count} texts or more; give more texts or a smaller min_count")
        return cls(kept)

    def save(self, path: str | Path) -> None:
        """Write it as JSON; the file appears whole or not at all."""
        temporary = Path(f"{path}.{os.getpid()}.partial")
        temporary.write_text(json.dumps({"format": FORMAT, "words": self.words}, indent=0), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            DamagedFile: no such file, or not a vocabulary.
            UnknownFormat: written by a newer version.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            version, words = int(stored["format"]), tuple(str(word) for word in stored["words"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedFile(f"{path} is not a vocabulary ({error}); make it with Vocabulary.learn") from error
        if version > FORMAT:
            raise UnknownFormat(f"{path} has format {version}, this version reads {FORMAT}; install a newer bitfuse")
        return cls(words)

    @property
    def fingerprint(self) -> str:
        """What tells this vocabulary from another: SHA-256 over its words."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def bags(self, texts: Iterable[str]) -> Rows:
        """(n, words) float32 of 0 and 1; a text without a known word is a row of zeros."""
        listed = list(texts)
        rows = np.zeros((len(listed), len(self.words)), np.float32)
        for row, text in zip(rows, listed):
            row[[self._columns[word] for word in set(_words(text)) if word in self._columns]] = 1
        return rows


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
