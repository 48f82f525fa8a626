"""Write the table of methods into README.md from the facts that `bitfuse methods` prints; `--check` only compares."""

import sys
from pathlib import Path

from bitfuse.hashers import method_table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by scripts/method_table.py -->\n", "<!-- end of methods -->\n"


def table() -> str:
    """The table as Markdown."""
    rows = method_table()
    shown = [{**row, "name": f"`{row['name']}`"} for row in rows]
    cells = [[("yes" if v else "-") if isinstance(v, bool) else str(v) for v in row.values()] for row in shown]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Rewrite the block between the marks, or compare it."""
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    fresh = before + BEGIN + table() + END + after
    if "--check" in sys.argv:
        sys.exit(0 if fresh == text else f"{README.name} is stale; run python scripts/method_table.py")
    README.write_text(fresh)


if __name__ == "__main__":
    main()
