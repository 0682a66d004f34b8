"""`python -m tests.site` builds the documentation site strictly (`make site`) and looks at what came out.

MkDocs also loads this file, as its hook. Pages of the repository that lie outside of docs/ become pages of the site,
and links to them, which are right on any page of the repository, are turned to those; so no text is kept twice. A link
to another file of the repository leads to a copy of that file. A notebook becomes a page of its cells.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Pages of the site by the files of the repository that they are.
PAGES = {
    "deploy/README.md": "deploy.md",
    "deploy/proxy/README.md": "proxies.md",
    "shared/FORMAT.md": "format.md",
    "shared/PACKETS.md": "packets.md",
    "training/QUEUE.md": "training-queue.md",
    "CONTRIBUTING.md": "contributing.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "benchmarks.md",  # its part "Measured"; what stands before has pages of its own
}
_COPIES = "files"  # where other files of the repository go that a page links to
_LINK = re.compile(r"(?P<head>!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()(?P<target>[^)\s]+)(?P<tail>\))")
_FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
_ANSWERS = ("https://", "http://", "mailto:")


# --- what MkDocs calls


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    made = {page: _text(ROOT / name) for name, page in PAGES.items()}
    for notebook in sorted(DOCS.glob("notebooks/*.ipynb")):
        made[f"notebooks/{notebook.stem}.md"] = notebook_page(notebook)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for copied in sorted(_copied()):
        uri = f"{_COPIES}/{copied.relative_to(ROOT)}"
        files.append(File.generated(config, uri, abs_src_path=str(copied)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    return turned(markdown, page.file.src_uri)


# --- pages and links


def source_of(page: str) -> Path:
    """The file of the repository that a page of the site is."""
    for name, made in PAGES.items():
        if made == page:
            return ROOT / name
    notebook = DOCS / Path(page).with_suffix(".ipynb")
    return notebook if notebook.exists() else DOCS / page


def turned(markdown: str, page: str) -> str:
    """A page's text with links as the site has them; code is left alone."""
    folder = source_of(page).parent

    def link(found: re.Match[str]) -> str:
        return f"{found['head']}{_target(found['target'], folder, page)}{found['tail']}"

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def _target(target: str, folder: Path, page: str) -> str:
    if target.startswith((*_ANSWERS, "#")):
        return target
    path, _, anchor = target.partition("#")
    file = Path(os.path.normpath(folder / unquote(path)))
    uri = _uri(file)
    if uri is None:
        return target  # MkDocs names it as one that leads nowhere
    if uri == PAGES["README.md"] and not anchor:
        uri = "index.md"
    relative = os.path.relpath(uri, os.path.dirname(page) or ".")
    return f"{relative}#{anchor}" if anchor else relative


def _uri(file: Path) -> str | None:
    """Where the site has a file of the repository; None where there is no such file."""
    if file.is_dir():
        file = next((one for one in (file / "index.md", file / "README.md") if one.exists()), file)
    if not file.is_file():
        return None
    if file.suffix == ".ipynb":
        file = file.with_suffix(".md")
    if file.is_relative_to(DOCS):
        return str(file.relative_to(DOCS))
    name = str(file.relative_to(ROOT))
    return PAGES.get(name, f"{_COPIES}/{name}")


def _copied() -> set[Path]:
    """Files of the repository that pages link to, and that are no pages."""
    found = set()
    sources = [*DOCS.rglob("*.md"), *(ROOT / name for name in PAGES)]
    for source in sources:
        for link in _LINK.finditer("".join(_FENCE.split(source.read_text())[::2])):
            if link["target"].startswith((*_ANSWERS, "#")):
                continue
            file = Path(os.path.normpath(source.parent / unquote(link["target"].partition("#")[0])))
            if file.is_relative_to(ROOT) and (_uri(file) or "").startswith(f"{_COPIES}/"):
                found.add(file)
    return found


def _text(file: Path) -> str:
    text = file.read_text()
    if file == ROOT / "README.md":
        measured = text[text.index("## Measured") : text.index("## Licence")]
        return f"# Benchmarks\n\n{measured}"
    return text


def notebook_page(path: Path) -> str:
    """Cells of a notebook as a page, with the notebook itself to take along."""
    cells = json.loads(path.read_text())["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"]).strip()
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.append(f'<a href="{path.name}" download>{path.name}</a>, and [how to run it](index.md).')
    return "\n\n".join(parts) + "\n"


# --- what came out


class _Wanted(HTMLParser):
    """What a page of HTML has a browser load, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if given.get("id"):
            self.anchors.add(given["id"])
        if "mermaid" in given.get("class", "").split():
            self.loaded.append("https://unpkg.com/mermaid")  # which the theme would fetch for it
        if tag in ("a", "area") and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given.get("href", ""))
        elif tag in ("script", "img", "iframe", "source", "video", "object", "embed"):
            self.loaded += [given[name] for name in ("src", "srcset", "data", "poster") if given.get(name)]


def complaints(site: Path) -> list[str]:
    """What is wrong with a built site: something that a browser would ask another host for, and dead links."""
    pages = {path: _parsed(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        served = name.name != "404.html"  # which a server shows at any address: its own are from the root on
        for address in page.loaded:
            if urlsplit(address).netloc:
                found.append(f"{name}: {address} is on another host")
            elif served and not _is_there(address, path):
                found.append(f"{name}: {address} is not there")
        if served:
            found += [f"{name}: {why}" for link in page.links if (why := _dead(link, path, pages))]
    for path in sorted(site.rglob("*.css")):
        for address in re.findall(r"url\(\s*['\"]?([^)'\"]+)|@import\s+['\"]([^'\"]+)", path.read_text()):
            if urlsplit("".join(address)).netloc:
                found.append(f"{path.relative_to(site)}: {''.join(address)} is on another host")
    return found


def _is_there(address: str, path: Path) -> bool:
    return address.startswith("data:") or (path.parent / unquote(urlsplit(address).path)).exists()


def _dead(link: str, path: Path, pages: dict[Path, _Wanted]) -> str:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.exists():
        return f"{link} leads nowhere"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "" if parts.fragment.startswith("__") else f"{link} has no such place"
    return ""


def _parsed(path: Path) -> _Wanted:
    page = _Wanted()
    page.feed(path.read_text())
    return page


def build(site: Path, docs: Path | None = None) -> list[str]:
    """Build into a folder; returns what is wrong. Warnings of MkDocs are errors."""
    from mkdocs.commands.build import build as run
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort, ConfigurationError

    changed: dict[str, Any] = {"site_dir": str(site), "strict": True}
    if docs is not None:
        changed["docs_dir"] = str(docs)
    try:
        run(load_config(str(ROOT / "mkdocs.yml"), **changed))
    except (Abort, ConfigurationError) as error:
        return [" ".join(str(error).split()) or "MkDocs gave up"]
    return complaints(site)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.site", description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=ROOT / "site", metavar="DIR", help="default: site/")
    args = parser.parse_args()
    found = build(args.out.absolute())
    for one in found:
        print(one, file=sys.stderr)
    print(f"{len(found)} complaints" if found else f"open {args.out / 'index.html'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
