"""Run every benchmark in turn, each in a process of its own; figures go to `benchmarks/results/`.

python benchmarks/run_all.py [NAME ...]     # names without .py; none is all of them
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    names = sys.argv[1:] or sorted(p.stem for p in HERE.glob("*.py") if p.stem != "run_all")
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        script = HERE / f"{name}.py"
        out = ["--out", HERE / "results" / f"{name}.json"] if '"--out"' in script.read_text() else []
        if subprocess.run([sys.executable, script, *out]).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
