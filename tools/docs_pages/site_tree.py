"""Write the sources of the documentation site into a folder that holds nothing else."""

from __future__ import annotations

import hashlib
import posixpath
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.metrics import METRICS
from docs_pages import command_pages, field_pages, links, method_pages, tutorial_pages
from docs_pages.board_links import link_headers
from docs_pages.formulas import draw_formulas
from docs_pages.method_pictures import draw_family
from docs_pages.metric_pages import write_metric_page, write_overview
from docs_pages.pictures import draw_picture
from docs_pages.python_pages import write_python_page

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "build" / "docs"
CACHE = ROOT / "build" / "docs-pictures"
SITE_FILES = Path(__file__).parent / "site_files"
"""Files that the site has beside its pages, such as the style sheet."""


def list_shown() -> list[str]:
    """Return the files of the repository that the site shows as they are, but for their links."""
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("leaderboards/**/*.md")]
    pages.append(ROOT / "CONTRIBUTING.md")
    found = {page.relative_to(ROOT).as_posix() for page in pages}
    for page in sorted(found):
        for target in links.list_targets((ROOT / page).read_text(encoding="utf-8")):
            path = links.resolve(page, target.partition("#")[0])
            if path.endswith((".png", ".svg")) and (ROOT / path).is_file():
                found.add(path)
    found |= {f"docs/tutorials/{script.name}" for script in tutorial_pages.list_tutorials()}
    return sorted(found)


def copy_shown() -> Iterator[tuple[str, str | Path]]:
    """Yield (place on the site, text of a page or file of a picture) of what the repository has."""
    shown = {*list_shown(), *(f"docs/{place}" for place, _ in generate_pages())}
    for path in list_shown():
        place = links.place_on_site(path)
        if path.endswith(".py"):
            continue
        if not path.endswith(".md"):
            yield place, ROOT / path
            continue
        text = links.move_links((ROOT / path).read_text(encoding="utf-8"), path, shown)
        if path.startswith("leaderboards/"):
            text = link_headers(text, "../" * place.count("/"))
            text = text.replace("# Board\n", f"# Board {posixpath.dirname(place)[13:]}\n", 1)
        yield place, text


def generate_pages() -> Iterator[tuple[str, str]]:
    """Yield (place on the site, text) of every page that the code gives."""
    folder = ROOT / "docs" / "metrics"
    yield "metrics/index.md", write_overview((folder / "index.md").read_text(encoding="utf-8"))
    for metric in METRICS:
        text = (folder / f"{metric.name}.md").read_text(encoding="utf-8")
        place = f"metrics/{metric.name}.md"
        yield place, write_metric_page(metric, text, ROOT / "leaderboards")
    for family in method_pages.FAMILIES:
        yield f"reference/methods/{family}.md", method_pages.write_family_page(family)
    yield "reference/cli/index.md", command_pages.write_command_index()
    for words, command in command_pages.list_commands().items():
        place = f"reference/cli/{command_pages.name_page(words)}"
        yield place, command_pages.write_command_page(words, command)
    yield "reference/protocols.md", field_pages.write_protocol_page()
    yield "reference/schema.md", field_pages.write_schema_page()
    yield "reference/python.md", write_python_page()


def list_pictures() -> dict[str, Callable[[Path], None]]:
    """Return what draws each picture, by its place on the site."""
    found: dict[str, Callable[[Path], None]] = {}
    for metric in METRICS:
        found[f"metrics/pictures/{metric.name}.png"] = partial(draw_picture, metric.name)
    for family in method_pages.FAMILIES:
        methods = method_pages.list_methods(family)
        found[f"reference/methods/pictures/{family}.png"] = partial(draw_family, methods)
    return found


def digest_code() -> str:
    """Return a digest of all code that pictures depend on."""
    files = [*(ROOT / "bench").rglob("*.py"), *Path(__file__).parent.rglob("pictures/*.py")]
    files.append(Path(__file__).parent / "method_pictures.py")
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.relative_to(ROOT).as_posix().encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:12]


def place_pictures(target: Path, say: Callable[[str], None]) -> None:
    """Draw every picture, or take it from the cache if no code has changed since."""
    cache = CACHE / digest_code()
    for place, draw in list_pictures().items():
        kept = cache / place
        if not kept.is_file():
            say(f"draws {place}")
            unfinished = kept.with_name(f"unfinished-{kept.name}")
            draw(unfinished)
            unfinished.replace(kept)
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, target / place)
    for old in CACHE.iterdir():
        if old != cache:
            shutil.rmtree(old)


def write_tree(target: Path, say: Callable[[str], None]) -> None:
    """Write all pages and pictures; the folder is made anew.

    Args:
        target: The folder.
        say: Is given a line for each step that takes time.
    """
    shutil.rmtree(target, ignore_errors=True)
    pages: dict[str, str | Path] = {**dict(copy_shown()), **dict(generate_pages())}
    pages |= {
        file.relative_to(SITE_FILES).as_posix(): file
        for file in SITE_FILES.rglob("*")
        if file.is_file()
    }
    for place, content in pages.items():
        path = target / posixpath.normpath(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_text(draw_formulas(content), encoding="utf-8")
    for script in tutorial_pages.list_tutorials():
        say(f"runs the tutorial {script.name}")
        page = tutorial_pages.build_tutorial(script, target)
        (target / "tutorials" / f"{script.stem}.md").write_text(page, encoding="utf-8")
    place_pictures(target, say)
