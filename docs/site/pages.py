"""A hook of the site: README as its first page, lists of what lies in folders, and links that lead to pages of the site."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LISTED = {
    "results": ("Results", "Measured figures, each with its command, machine and conditions."),
    "decisions": ("Decisions", "Choices that others could question, failed attempts among them: context, decision, consequences."),
    "lab": ("Lab notes", "How results were found, in the order in which they were."),
}
EXAMPLES = {"own-model": "Complete examples of your own code", "results/cifar10-prediction": "The part of CIFAR-10 that was predicted"}
"""Folders whose files are shown whole, and what they are."""
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages of the site that lie at the top of the repository."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    for path, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    for folder, (title, about) in LISTED.items():
        pages = sorted((ROOT / "docs" / folder).glob("*.md"))
        lines = [f"* [{page.read_text().splitlines()[0].lstrip('# ')}]({page.name})" for page in pages]
        files.append(File.generated(config, f"{folder}/index.md", content="\n".join([f"# {title}", "", about, "", *lines])))
    for folder, title in EXAMPLES.items():
        examples = [path for path in sorted((ROOT / "docs" / folder).iterdir()) if path.suffix in {".py", ".yaml"}]
        shown = [f"## {path.name}\n\n```{path.suffix[1:]}\n{path.read_text()}```\n" for path in examples]
        files.append(File.generated(config, f"{folder}/index.md", content="\n".join([f"# {title}", "", *shown])))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    source = page.file.src_uri
    at_root = {page: path for path, page in FROM_ROOT.items()}
    folder = posixpath.dirname(at_root.get(source, f"docs/{source}"))

    def of_site(match: re.Match[str]) -> str:
        path, anchor = posixpath.normpath(posixpath.join(folder, match[1])), match[2] or ""
        target = FROM_ROOT.get(path, path.removeprefix("docs/"))
        if path.startswith("recipes/"):
            target, anchor = "reference/recipes.md", f"#{Path(path).stem}"
        elif (ROOT / path).is_dir():
            target = f"{target}/index.md"
        return posixpath.relpath(target, posixpath.dirname(source) or ".") + anchor

    return LINK.sub(of_site, markdown)
