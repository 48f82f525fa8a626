"""What mkdocs calls: pages drawn from the code, the house's own files as pages, executed galleries, formulas."""

import re
from pathlib import Path
from typing import Any

from docs.build import gallery, methods, reference
from docs.build.figures import figures
from docs.build.formulas import drawn
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
HOUSE = {"architecture.md": "ARCHITECTURE.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
executed: dict[str, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the drawn pages to those that lie on disk."""
    text: dict[str, str] = {**methods.pages(), **reference.pages(), **figures()}
    text |= {path: (ROOT / name).read_text() for path, name in HOUSE.items()}
    pictures: dict[str, bytes] = {}
    for page in gallery.PAGES:
        place = page.relative_to(gallery.DOCS)
        executed[place.as_posix()], drawings = gallery.executed(page)
        pictures |= {place.with_name(name).as_posix(): content for name, content in drawings.items()}
    for path, content in {**text, **pictures}.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Executed pages are shown with what their blocks printed; reasons for not running are not shown."""
    return re.sub(r"<!-- not run: [^>]+ -->\n", "", executed.get(page.file.src_uri, markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML."""
    return drawn(html)
