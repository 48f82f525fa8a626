"""Train the pocket CLIP that is shipped in the wheel, from nothing, on the generated shapes world.

    python scripts/train_pocket.py --steps 500 --seed 0 --out src/bitfuse/features/pocket

The budget is in steps, so that a slow machine gives the same model later (about ten minutes of one core). The
result is an ordinary checkpoint directory: config.json, model.safetensors (fp16), tokenizer.json and
tokenizer_config.json (a small BPE made here), preprocessor_config.json and README.md, the model card with the
score of `benchmarks/pocket_retrieval.py`.

The patches of the vision model are as large as the cells of the world's grid: a help to so small a model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from bitfuse.data.scenes import Scene, render, scene
from bitfuse.data.shapes import HELD_OUT_SEED, TRAINING_SEED

SIDE, PATCH, WIDTH = 48, 16, 128
BATCH, CHUNK = 256, 64  # texts go through the model in chunks of like length, each padded to its own longest
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer() -> CLIPTokenizer:
    """A byte-level BPE of the world's words; every byte is a token of its own, so that any text can be spelt."""
    blank = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    captions = (scene(TRAINING_SEED, item).caption for item in range(4000))
    learner.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(ByteLevel.alphabet())  # the characters by which a byte-level BPE writes the 256 bytes
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=END, unk_token=END, model_max_length=77)


def configuration(words: CLIPTokenizer) -> CLIPConfig:
    """The architecture of CLIP with about 1.4 million parameters."""
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    assert words.eos_token_id != 2, "an end token of 2 turns on the pooling of an old bug in transformers"
    return CLIPConfig(
        text_config={
            **shared,
            **ids,
            "num_hidden_layers": 2,
            "vocab_size": len(words),
            "max_position_embeddings": words.model_max_length,
        },
        vision_config={**shared, "num_hidden_layers": 4, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=WIDTH,
    )


def picture(of: Scene, draw: random.Random, processor: CLIPImageProcessorPil) -> np.ndarray:
    """A training picture, (48, 48, 3) uint8; one in four is drawn larger and reduced as the processor would do it."""
    side = draw.choice((SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, 64, 96))
    image = render(of, side)
    if side != SIDE:
        image = image.resize((SIDE, SIDE), resample=processor.resample)
    return np.asarray(image)


QUERIES = (("colour", "shape"), ("colour", "shape"), ("texture", "colour", "shape"), ("shape",), ("colour",))


def text_of(of: Scene, draw: random.Random) -> tuple[str, dict[str, str]]:
    """A training text, and what it asks of one object (nothing for a caption, which describes the whole scene).

    Seven in ten are captions; the others are what a user types about one of the large objects.
    """
    if draw.random() >= 0.3:
        return of.caption, {}
    thing = draw.choice([t for t in of.things if t.large])
    asked = {name: getattr(thing, name) for name in draw.choice(QUERIES)}
    return draw.choice(("", "a ")) + " ".join(asked.values()), asked


def answers(asked: dict[str, str], of: Scene) -> bool:
    """Whether a scene, though not the one that the text was made for, holds what it asks for."""
    return bool(asked) and any(all(getattr(t, k) == v for k, v in asked.items()) for t in of.things)


def train(steps: int, seed: int, out: Path) -> None:
    """Train and save the checkpoint into `out`."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    words = tokenizer()
    words.save_pretrained(out)  # before it is used, which leaves settings of padding in it
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor.save_pretrained(out)
    model = CLIPModel(configuration(words)).train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(words)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98))
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 60, total_iters=60)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps - 60), eta_min=2e-5)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[60])
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    began = time.process_time()
    for step in range(steps):
        scenes = [scene(TRAINING_SEED + seed, step * BATCH + i) for i in range(BATCH)]
        pairs = sorted(((*text_of(s, draw), s) for s in scenes), key=lambda pair: len(pair[0]))
        pixels = torch.from_numpy(np.stack([picture(s, draw, processor) for _, _, s in pairs]))
        pixels = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        images = model.get_image_features(pixels).pooler_output
        rows = []
        for at in range(0, BATCH, CHUNK):
            chunk = [text for text, _, _ in pairs[at : at + CHUNK]]
            rows.append(model.get_text_features(**words(chunk, padding=True, return_tensors="pt")).pooler_output)
        images = normalize(images, dim=1)
        captions = normalize(torch.cat(rows), dim=1)
        logits = model.logit_scale.exp() * images @ captions.T  # (BATCH, BATCH), pairs on the diagonal
        # A short text is true of other pictures too: those are no wrong answers.
        also = torch.tensor([[answers(asked, s) for _, asked, _ in pairs] for _, _, s in pairs]).fill_diagonal_(False)
        logits = logits.masked_fill(also, -1e4)
        target = torch.arange(BATCH)
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100.0))
        if step % 20 == 0 or step == steps - 1:
            hits = (logits.argmax(dim=1) == target).float().mean()
            used = time.process_time() - began
            print(f"step {step:4d}  loss {loss:.3f}  in-batch R@1 {hits:.3f}  {used:.0f} processor-seconds", flush=True)
    model.eval().half().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # saved for the owner alone, which a wheel would keep


def write_card(out: Path, steps: int, seed: int) -> None:
    """Score the saved checkpoint in a new process, through the code that users run, and write the model card."""
    benchmark = Path(__file__).resolve().parent.parent / "benchmarks" / "pocket_retrieval.py"
    trained = ["--model", str(out), "--steps", str(steps), "--seed", str(seed)]
    command = [sys.executable, str(benchmark), *trained, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    score = json.loads(done.stdout)
    size = sum(f.stat().st_size for f in out.iterdir() if f.suffix in (".safetensors", ".json")) / 1e6
    card = CARD.format(
        steps=steps,
        samples=steps * BATCH,
        seed=seed,
        training_seed=TRAINING_SEED + seed,
        held_out_seed=HELD_OUT_SEED,
        size=size,
        torch=torch.__version__,
        transformers=transformers.__version__,
        **score,
    )
    temporary = out / "README.md.part"
    temporary.write_text(card, encoding="utf-8")
    os.replace(temporary, out / "README.md")
    print(card)


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# Pocket CLIP

A CLIP of {parameters:,} parameters ({size:.1f} MB in fp16) that knows one thing: the **shapes** world that
`bitfuse.data.shapes` generates. It is here so that the demo, the documentation and the tests of Bitfuse run offline
through the code of the real thing. **It is not for photographs**; nor does it know any word that a caption of that
world does not hold.

| {scenes} held-out scenes with distinct captions | R@1 | R@5 | R@10 |
|---|---|---|---|
| image to text | {image_to_text_r1:.3f} | {image_to_text_r5:.3f} | {image_to_text_r10:.3f} |
| text to image | {text_to_image_r1:.3f} | {text_to_image_r5:.3f} | {text_to_image_r10:.3f} |

Training and held-out scenes come from different seeds ({training_seed} and {held_out_seed}). A scene of one object has
so few possibilities that {met} of the {scenes} held-out scenes also occur in training; without them the image to text
R@1 is {image_to_text_r1_unmet:.3f}.

- Trained by `python scripts/train_pocket.py --steps {steps} --seed {seed}`: {samples:,} scenes, each seen once, batches
  of 256, AdamW, the symmetric contrastive loss, in fp32 on a CPU, from random weights. No other data.
- Pictures: 48 x 48 pixels, patches of 16. One patch is one cell of the world's grid, which helps so small a model.
- Texts: a byte-level BPE trained on captions of the world; at most 77 tokens.
- Made with torch {torch} and transformers {transformers}. The score is that of `benchmarks/pocket_retrieval.py`.
"""


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=500)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, default=Path("src/bitfuse/features/pocket"))
    arguments.add_argument("--threads", type=int, default=1, help="with another number the weights differ a little")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    train(given.steps, given.seed, given.out)
    write_card(given.out, given.steps, given.seed)
