"""Every code block of the README and of the docs runs, page by page, in order, in a folder of its own.

A block of `python` or `bash` that does not run is preceded by `<!-- not run: the reason -->`. A page's Python blocks
share their names; its shell blocks share its folder; a block with a title is a file of that name.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import bitfuse
from bitfuse.hashers import hashers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REASON = r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?"
FENCE = r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$'
BLOCK = re.compile(REASON + FENCE, re.M | re.S)
ELSEWHERE = {ROOT / "docs/service.md"}  # its blocks need a server: tests/test_serve_process.py runs them


def blocks(page: Path) -> list[re.Match[str]]:
    """The blocks that run, in order."""
    found = [m for m in BLOCK.finditer(page.read_text()) if m["language"] in ("python", "bash")]
    return [m for m in found if not m["reason"]]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p) and p not in ELSEWHERE], ids=name)
def test_code_blocks_run(page, tmp_path):
    paths = os.environ["PATH"].split(os.pathsep)
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), *paths])}
    script = tmp_path / "page.py"
    lines = ["import subprocess"]
    for block in blocks(page):
        if block["title"]:
            (tmp_path / block["title"]).write_text(block["code"])
        elif block["language"] == "python":
            lines.append(block["code"])
        else:
            lines.append(f"subprocess.run(['bash', '-euc', {block['code']!r}], check=True)")
    script.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_the_site_lists_every_method_and_page():
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"]

    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        return [leaf for part in (entry if isinstance(entry, list) else entry.values()) for leaf in leaves(part)]

    listed = set(leaves(nav))
    assert {f"methods/{name}.md" for name in hashers()} <= listed
    assert {p.relative_to(ROOT / "docs").as_posix() for p in PAGES[1:]} <= listed


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert bitfuse.__version__ == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {project['version']}" in (ROOT / "CITATION.cff").read_text()
