"""Backbones: what turns images and texts into feature rows. Importing this loads neither torch nor transformers."""

from __future__ import annotations

import os

from bitfuse.errors import InputError
from bitfuse.features.base import Backbone
from bitfuse.features.checkpoints import DEFAULT

__all__ = ["DEFAULT", "Backbone", "backbone"]


def backbone(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, device: str = "cpu", light: bool = False
) -> Backbone:  # fmt: skip
    """The backbone of this name; its weights are read by the first `encode`.

    Args:
        name_or_path: a checkpoint of the CLIP family: `"pocket"` (shipped; knows only the generated shapes), a
            directory, or a hub id such as `openai/clip-vit-base-patch32`. Or one of other kinds, each by directory or
            hub id: `dual:<image model>+<text model>` (ViT + BERT and kin), `vgg:<weights file>+<vocabulary file>`
            (VGG-16 and a bag of words), `audio:<model>` and `video:<model>`, both also with `pocket`.
        revision: commit, tag or branch of a hub id; None takes the pinned commit of the default id, `main` of others.
        device: where to compute: `cpu`, `cuda`, `cuda:1`, `mps`. Not part of what a backbone is, and never saved.
        light: for a few queries in a new process: where the checkpoint is a plain CLIP and the device the CPU, run it
            without torch, which takes seconds to import. The features are the same, to about 1e-5.

    Raises:
        InputError: neither a string nor a path.
        UnknownName: not a name, a directory or a hub id.
        MissingWeights: a hub id that is neither cached nor reachable; there is no silent fall-back to another encoder.
        DamagedFile: a checkpoint that lacks a file.
        MissingDependency: torch or transformers is not installed.

    Examples:
        >>> import bitfuse as bf
        >>> encoder = bf.backbone("pocket")
        >>> encoder.encode("text", ["a red star", "blue ring"]).shape
        (2, 128)
    """
    if isinstance(name_or_path, os.PathLike):
        name_or_path = os.fspath(name_or_path)
    if not isinstance(name_or_path, str):
        raise InputError(f"a backbone is named by a string or a directory, got {name_or_path!r:.80}")
    kind, _, rest = name_or_path.partition(":")
    if kind == "dual" and rest:
        from bitfuse.features.dual import DualBackbone

        return DualBackbone(rest, revision=revision, device=device)
    if kind == "vgg" and rest:
        from bitfuse.features.vgg_bow import load as vgg

        return vgg(rest, revision=revision, device=device)
    if kind == "audio" and rest:
        from bitfuse.features.audio import load as audio

        return audio(rest, revision=revision, device=device)
    if kind == "video" and rest:
        from bitfuse.features.video import load as video

        return video(rest, revision=revision, device=device)

    from bitfuse.features.clip import CLIPBackbone
    from bitfuse.features.light import LightCLIP

    if light and device == "cpu":
        quick = LightCLIP(name_or_path, revision=revision)
        if quick.runs():
            return quick
    return CLIPBackbone(name_or_path, revision=revision, device=device)
