"""The code blocks of a page, and how they are run: by the tests for every page, by `make docs` for the gallery.

A block of `python` or `bash` that does not run is preceded by `<!-- not run: the reason -->`. A page's Python blocks
share their names; its shell blocks share its folder; a block with a title is a file of that name.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

REASON = r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?"
FENCE = r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$'
BLOCK = re.compile(REASON + FENCE, re.M | re.S)
END = "-- end of block --\n"


def blocks(text: str) -> list[re.Match[str]]:
    """The blocks of a page that run, in order."""
    found = [match for match in BLOCK.finditer(text) if match["language"] in ("python", "bash")]
    return [match for match in found if not match["reason"]]


def run(text: str, folder: Path) -> list[str]:
    """What each block that runs prints, in order; the page's files appear in the folder.

    Raises:
        RuntimeError: a block failed; the message ends in what it said.
    """
    lines = ["import subprocess"]
    for block in blocks(text):
        if block["title"]:
            (folder / block["title"]).write_text(block["code"])
        elif block["language"] == "python":
            lines.append(block["code"])
        else:
            lines.append(f"subprocess.run(['bash', '-euc', {block['code']!r}], check=True)")
        lines.append(f"print({END!r}, end='', flush=True)")
    script = folder / "page.py"
    script.write_text("\n".join(lines))
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": paths, "COLUMNS": "86"}
    done = subprocess.run([sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-4000:])
    return done.stdout.split(END)[:-1]
