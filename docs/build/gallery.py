"""Executed pages: what each block printed stands under it, and its pictures are those it drew."""

import re
import tempfile
import textwrap
from pathlib import Path

from docs.build.blocks import blocks, run

DOCS = Path(__file__).parents[1]
PAGES = [*sorted((DOCS / "gallery").glob("*.md")), DOCS / "judging" / "published.md"]


def executed(page: Path) -> tuple[str, dict[str, bytes]]:
    """A page with the outputs of its blocks, and the pictures that it names, by name; how they are drawn is folded.

    Raises:
        RuntimeError: a block failed.
    """
    text = re.sub(r"\A---\n.*?\n---\n+", "", page.read_text(), flags=re.S)  # mkdocs has read that by then
    with tempfile.TemporaryDirectory() as folder:
        outputs = run(text, Path(folder))
        pictures = {name: (Path(folder) / name).read_bytes() for name in re.findall(r"!\[[^]]*\]\(([^/)]+)\)", text)}
    for block, output in reversed(list(zip(blocks(text), outputs, strict=True))):
        shown = block[0]
        if "savefig" in block["code"]:
            shown = f'??? abstract "The code of this figure"\n{textwrap.indent(shown, "    ")}'
        if output.strip():
            said = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
            shown += f"\n\n```text\n{said}\n```\n"
        text = text[: block.start()] + shown + text[block.end() :]
    return text, pictures
