"""Every code block of the README and of the docs runs, page by page, in order, in a folder of its own; how blocks are
marked stands in docs/build/blocks.py. What is generated lists everything that the code has, and no page is left out.
"""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from docs.build import methods, reference
from docs.build.blocks import blocks, run

from bitfuse.cli import app, register
from bitfuse.hashers import hashers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {ROOT / "docs/service.md"}  # its blocks need a server: tests/test_serve_process.py runs them
GENERATED = {"architecture.md", "contributing.md", "changelog.md"}
GENERATED |= {f"reference/{name}.md" for name in ("python", "commands", "service")}
GENERATED |= {"methods/index.md", *(f"methods/{name}.md" for name in hashers())}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p.read_text()) and p not in ELSEWHERE], ids=name)
def test_code_blocks_run(page, tmp_path):
    run(page.read_text(), tmp_path)


@pytest.mark.parametrize("page", sorted((ROOT / "docs/gallery").glob("*.md")), ids=name)
def test_the_gallery_draws_every_picture_that_it_shows(page):
    text = page.read_text()
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert shown
    assert [file for file in shown if f'savefig("{file}"' not in text] == []


def test_a_block_that_fails_is_told(tmp_path):
    page = "```python\nx = 1\n```\n<!-- not run: shown only -->\n```bash\nfalse\n```\n```bash\necho $((2 + 3))\n```\n"
    assert run(page, tmp_path) == ["", "5\n"]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run(page + "```python\nx / 0\n```\n", tmp_path)


def test_the_site_lists_every_method_and_page():
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"]

    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        return [leaf for part in (entry if isinstance(entry, list) else entry.values()) for leaf in leaves(part)]

    on_disk = {p.relative_to(ROOT / "docs").as_posix() for p in PAGES[1:]}
    assert set(leaves(nav)) == on_disk | GENERATED


def test_the_page_of_commands_has_every_option():
    page = reference.commands()
    register()
    for command in app.registered_commands:
        done = command.callback.__name__.replace("_", "-") if command.name is None else command.name
        assert re.search(rf"^## bitfuse {done}$", page, re.M), done
    for option in ("--method", "--bits", "--where", "--engine", "--without-keys", "--allow-remote"):
        assert f"`{option}" in page


def test_the_page_of_the_service_has_every_setting_route_and_metric():
    from bitfuse.serve import schemas  # noqa: F401
    from bitfuse.serve.metrics import Metrics
    from bitfuse.serve.routes import collections, items, search, system
    from bitfuse.serve.settings import Settings

    page = reference.service()
    assert [f.name for f in fields(Settings) if f"| `{f.name}` | " not in page] == []
    served = [
        f"`{method} {route.path.replace(':path', '')}`"
        for topic in (collections, items, search, system)
        for route in topic.router.routes
        for method in route.methods
        if route.include_in_schema
    ]
    assert len(served) > 15
    assert [route for route in served if route not in page] == []
    assert [m.name for m in Metrics().registry.collect() if f"| `{m.name}" not in page] == []
    assert [f.name for f in fields(Settings) if not reference.said(Settings).get(f.name)] == []


def test_every_method_has_a_page_with_its_measured_score():
    pages = methods.pages()
    for method in hashers():
        page = pages[f"methods/{method}.md"]
        for heading in ("Examples", "Deviations from the paper", "References", "Score under strict", "Defaults"):
            assert f"\n## {heading}\n" in page, (method, heading)
        assert re.search(r"\| (both|image→text) \| 0\.\d{3} ± [\d.]+ \| 0\.\d{3} \| 0\.\d{3} ± ", page), method
        assert "_fitted" not in page
        assert page.count("$$") % 2 == 0


def section(page: Path, anchor: str | None) -> str:
    """What stands under the heading with this anchor; the whole page without one."""
    lines, found = page.read_text().splitlines(), None
    for number, text in enumerate(lines):
        if heading := re.match(r"(#+) (.+)$", text):
            if found is not None and len(heading[1]) <= found[1]:
                return "\n".join(lines[found[0] : number])
            if re.sub(r"[^\w -]", "", heading[2]).lower().replace(" ", "-") == anchor:
                found = number, len(heading[1])
    return "\n".join(lines[found[0] if found else 0 :]) if found or not anchor else ""


ANSWERS = {
    "How many bits?": ["64 bits are the default"],
    "I have no labels": ["pictures alone", "pairs of picture and text"],
    "There is no network": ["--backbone pocket", "--backbone /path/to/checkpoint"],
    "My own CLIP": ["--backbone ./my-clip"],
    "A GPU": ["--device cuda", 'device="cuda"'],
    "Delete items": ["shop.delete("],
    "Filter on a price": ['where="price < 50'],
    "Reproduce a number": ["bitfuse bench run", "bitfuse bench recipes"],
    "Add a method": ["check_hasher(", "_project"],
    "More than one machine": ["milvus://", "--engine ray"],
}


def test_the_ten_questions_are_answered_one_click_from_the_start_page():
    text = (ROOT / "docs/index.md").read_text().partition("## Ten questions")[2].partition("\n## ")[0]
    rows = [row.strip("|").split("|") for row in text.splitlines() if "](" in row]
    assert [question.strip() for question, _ in rows] == list(ANSWERS)
    for question, answer in rows:
        links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", answer)
        there = "\n".join(section(ROOT / "docs" / file, anchor or None) for file, anchor in links)
        assert [words for words in ANSWERS[question.strip()] if words not in there] == [], question


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the group `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    pages = {
        page.relative_to(tmp_path / "site").as_posix(): page.read_text() for page in (tmp_path / "site").rglob("*.html")
    }
    assert len(pages) > 60
    for place, page in pages.items():
        assert r"\[" not in page, f"a formula of {place} is not drawn"
        for link in re.findall(r'(?:src|href)="([^"#?]+)', page):
            if not re.match(r"[a-z]+:|//|/", link):
                assert (tmp_path / "site" / place).parent.joinpath(link).exists(), f"{place} links to {link}"
            assert not re.match(r"https?://[^\"]+\.(js|css|woff2?)$", link), f"{place} asks another host for {link}"
