"""The ablations on the shapes world at full size: what `bitfuse bench ablation` prints, with the commit, kept.

    python benchmarks/ablations.py [NAME ...] [--folder benchmarks/results/ablations]

Each writes NAME.json (every number) and NAME.md (text and table). No name is all of them.
"""

import argparse
import subprocess
import time
from pathlib import Path

from bitfuse.bench.ablations import ablation, ablations, save

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*ablations(), []])
    parser.add_argument("--folder", type=Path, default=HERE / "results" / "ablations")
    options = parser.parse_args()
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=HERE, capture_output=True, text=True
    )
    for name in options.names or ablations():
        start = time.perf_counter()
        section = ablation(name)()
        seconds = time.perf_counter() - start
        save(name, section, options.folder, seconds, commit=told.stdout.strip())
        (options.folder / f"{name}.md").write_text(section.markdown(), encoding="utf-8")
        print(f"{section.markdown()}\n{name}: {seconds:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
