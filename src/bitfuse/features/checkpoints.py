"""Finding a checkpoint (shipped, in a directory, in the Hugging Face cache, on the hub) and what fixes it: hashes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from bitfuse.errors import DamagedFile, InputError, MissingWeights, UnknownName

DEFAULT = "openai/clip-vit-base-patch32"
POCKET = Path(__file__).parent / "pocket"

PINNED = {
    # The hub's own conversion to safetensors; `main` of that repository holds only pickled weights.
    DEFAULT: "c237dc49a33fc61debc9276459120b7eac67e7ef",
}
"""Hub id -> commit that is taken where no revision is asked for; other ids take `main`, and its commit is recorded."""

SAFE, PICKLED = r"model(-\d+-of-\d+)?\.safetensors", r"pytorch_model(-\d+-of-\d+)?\.bin"
PIXELS = ("preprocessor_config.json", "processor_config.json")
WORDS = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("special_tokens_map.json", "added_tokens.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)

Needs = tuple[tuple[str, ...], ...]
IMAGES_AND_TEXTS: Needs = (PIXELS, VOCABULARIES)


@dataclass(frozen=True)
class Checkpoint:
    """A directory in the ordinary layout of `transformers`.

    Attributes:
        name: what names it to `find`: "pocket", a hub id, or the absolute path of a directory.
        directory: where the files lie.
        revision: the commit on the hub, None for a directory of the user's.
    """

    name: str
    directory: Path
    revision: str | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        path = self.directory / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DamagedFile(f"{path} cannot be read as JSON ({error}); fetch {self.name!r} again") from error
        if not isinstance(config, dict):
            raise DamagedFile(f"{path} must hold a JSON object; fetch {self.name!r} again")
        return config

    @cached_property
    def weights(self) -> tuple[Path, ...]:
        """The files of weights: all shards of safetensors, or of pickled tensors where there are none."""
        for pattern in (SAFE, PICKLED):
            found = sorted(f for f in self.directory.iterdir() if re.fullmatch(pattern, f.name))
            if found:
                return tuple(found)
        raise DamagedFile(f"{self.directory} holds no weights (model.safetensors); fetch {self.name!r} again")

    @property
    def safe(self) -> bool:
        """Whether the weights are safetensors."""
        return self.weights[0].suffix == ".safetensors"

    def verify(self, needs: Needs) -> None:
        """Look for every file that encoding needs: config.json, weights, and one of each of `needs`.

        Raises:
            DamagedFile: naming what is missing.
        """
        for wanted in (("config.json",), *needs):
            if not any((self.directory / file).is_file() for file in wanted):
                raise DamagedFile(
                    f"{self.directory} lacks {' or '.join(wanted)}; a backbone is a directory with config.json, "
                    f"weights, and what makes tensors of its inputs: fetch {self.name!r} again"
                )
        assert self.weights

    def weights_hash(self) -> str:
        """SHA-256 over config.json and the weights; about a second per gigabyte, once per process."""
        return _joint_hash([self.directory / "config.json", *self.weights])

    def preprocessing_hash(self, view: str) -> str:
        """SHA-256 over the files that say how this view's inputs become tensors."""
        names = WORDS if view == "text" else PIXELS
        return _joint_hash([self.directory / file for file in names if (self.directory / file).is_file()])


def _joint_hash(files: list[Path]) -> str:
    joint = hashlib.sha256()
    for file in files:
        joint.update(f"{file.name}\0{file_hash(file)}\n".encode())
    return joint.hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file; about a second per gigabyte, once per process as long as it does not change."""
    facts = file.stat()
    return _file_hash(str(file), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(path: str, size: int, modified: int) -> str:
    """SHA-256 of a file; size and time of change are part of the key, so that a changed file is read again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(name: str, *, revision: str | None = None, needs: Needs = IMAGES_AND_TEXTS) -> Checkpoint:
    """The checkpoint of this name: `"pocket"`, a directory, or a hub id (from the cache, else downloaded).

    Args:
        name: see above.
        revision: commit, tag or branch of a hub id.
        needs: names of files, of each group of which one must be there.

    Raises:
        UnknownName: neither a known name, nor a directory, nor of the form `owner/model`.
        MissingWeights: a hub id that is neither in the cache nor reachable.
        InputError: a revision for something not on the hub.
        DamagedFile: a directory that lacks a file.
    """
    directory = POCKET if name == "pocket" else Path(name).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise InputError(f"revision {revision!r} belongs to a hub id; {name!r} is a directory, drop it")
        # Models record this name: it must still be found from another working directory.
        checkpoint = Checkpoint(name if name == "pocket" else str(directory.resolve()), directory)
        checkpoint.verify(needs)
        return checkpoint
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UnknownName(
            "backbone", name, ["pocket", DEFAULT], "or give a directory that exists, or a hub id owner/model"
        )
    checkpoint = _cached_or_fetched(name, revision or PINNED.get(name, "main"), needs)
    checkpoint.verify(needs)
    return checkpoint


def _cached_or_fetched(name: str, revision: str, needs: Needs) -> Checkpoint:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        checkpoint = Checkpoint(name, cached, cached.name)
        checkpoint.verify(needs)
        return checkpoint
    except (LocalEntryNotFoundError, DamagedFile):
        # Nothing there, or some files only, as other programs leave them: fetch the rest.
        pass
    try:
        if HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        # One request without retries comes first: the download itself would try for half a minute without a network.
        facts = HfApi().model_info(name, revision=revision, timeout=5)
        wanted = _wanted([sibling.rfilename for sibling in facts.siblings or ()])
        fetched = Path(snapshot_download(name, revision=facts.sha, allow_patterns=wanted))
    except Exception as error:  # Anything from the network stack, whose classes differ between versions of the client.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise MissingWeights(
            f"backbone {name!r} (revision {revision}) is not in the Hugging Face cache ({HF_HUB_CACHE}) and could not "
            f"be fetched: {reason}. Ways on: name a directory with a checkpoint (--backbone DIRECTORY); fill the cache "
            f"where there is a network (hf download {name} --revision {revision}); or, for the generated shapes only, "
            "take the shipped one (--backbone pocket)"
        ) from error
    return Checkpoint(name, fetched, fetched.name)


def _wanted(files: list[str]) -> list[str]:
    """The files to download: one set of weights, configuration, tokenizer; nothing of other frameworks."""
    for pattern in (SAFE, PICKLED):
        weights = [f for f in files if re.fullmatch(pattern, f)]
        if weights:
            break
    return [f for f in files if f in (*PIXELS, *WORDS, "config.json") or f.endswith(".index.json") or f in weights]
