"""Bitfuse: learned fused binary codes for images and text, trained, judged, indexed and searched.

Importing this module loads neither torch nor numba; each public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "Codes",
    "Collection",
    "Dataset",
    "Protocol",
    "Samples",
    "ScanIndex",
    "__version__",
    "backbone",
    "dataset",
    "evaluate",
    "hasher",
    "hashers",
    "load",
    "score",
]

_WHERE = {
    "Codes": "bitfuse.codes",
    "Collection": "bitfuse.search.collection",
    "Dataset": "bitfuse.data.base",
    "Protocol": "bitfuse.bench.protocol",
    "Samples": "bitfuse.data.base",
    "ScanIndex": "bitfuse.index.scan",
    "backbone": "bitfuse.features",
    "dataset": "bitfuse.pipeline.datasets",
    "evaluate": "bitfuse.bench.run",
    "hasher": "bitfuse.hashers",
    "hashers": "bitfuse.hashers",
    "load": "bitfuse.hashers._persist",
    "score": "bitfuse.bench.run",
}

if TYPE_CHECKING:
    from bitfuse.bench.protocol import Protocol
    from bitfuse.bench.run import evaluate, score
    from bitfuse.codes import Codes
    from bitfuse.data.base import Dataset, Samples
    from bitfuse.features import backbone
    from bitfuse.hashers import hasher, hashers
    from bitfuse.hashers._persist import load
    from bitfuse.index.scan import ScanIndex
    from bitfuse.pipeline.datasets import dataset
    from bitfuse.search.collection import Collection

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bitfuse")
    if name not in _WHERE:
        raise AttributeError(f"module 'bitfuse' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
