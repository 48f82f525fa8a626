"""Settings of every test and doctest: a cache of its own, no network, one thread per library and process."""

import os
from pathlib import Path

os.environ.setdefault("BITFUSE_CACHE", str(Path(__file__).parent / ".cache"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
