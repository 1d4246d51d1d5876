"""MkDocs hook: the pages are the repository's Markdown files, each at its place in the tree, with
the figures and sources that they link to. A link means the same in the site and in the repository.
"""

import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "docs/*.md",
]


def targets(page: Path) -> set[Path]:
    """Files of the repository that the page links to."""
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", page.read_text())
    paths = {(page.parent / link).resolve() for link in links}
    return {path for path in paths if path.is_file() and path.is_relative_to(ROOT)}


def on_files(files: Files, config) -> Files:
    pages = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    everything = pages.union({ROOT / "docs/site.css"}, *map(targets, pages))
    # The theme's own may be below ROOT as well, in an environment there.
    theme = [file for file in files if not Path(file.abs_src_path).is_relative_to(ROOT / "docs")]
    own = [
        File(
            path.relative_to(ROOT).as_posix(),
            str(ROOT),
            config["site_dir"],
            config["use_directory_urls"],
        )
        for path in sorted(everything)
    ]
    return Files([*theme, *own])


def on_page_content(html: str, page, config, files) -> str:
    """Docstrings name functions in the way of Sphinx, :func:`name`; the name alone is shown."""
    return re.sub(r":(?:func|class|meth|mod|attr|data):(?=<code)", "", html)


def on_post_build(config) -> None:
    """No page lacks a style sheet, script or picture: the build checks its links to pages only."""
    site = Path(config["site_dir"])
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # whose paths depend on where the site will be
            continue
        needed = re.findall(r'<(?:link|script|img)[^>]*?(?:href|src)="([^"#?]+)', page.read_text())
        for path in needed:
            if not re.match(r"[a-z]+:|//", path) and not (page.parent / path).resolve().exists():
                raise PluginError(f"{page.relative_to(site)} needs {path}, which is not there")
