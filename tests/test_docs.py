"""Documents name what is there: links, paths, sources of data."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mstat.evaluation.metrics import MEANS
from mstat.evaluation.open_set import identification
from mstat.evaluation.verification import FPRS, verification
from shards.sources import SOURCES

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
DOCUMENTS += sorted((PROJECT / "docs").glob("*.md"))
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
FOLDERS = "mstat|shards|launch|tests|configs|benchmarks|docs"
NAMED = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w\.(?:py|yaml|md|css))")
TO_BE_MADE = {"shards/sources/corridor.py", "configs/sites/mine.yaml", "configs/clips.yaml"}  # by readers of an example


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link is a file of the project, and its anchor a heading of that file."""
    for link in LINK.findall(without_code(document.read_text())):
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document: Path) -> None:
    """A module or YAML that a document or one of its commands names is there."""
    for name in NAMED.findall(document.read_text()):
        assert (PROJECT / name).is_file() or name in TO_BE_MADE, name


def test_the_index_lists_every_document() -> None:
    text = (PROJECT / "docs" / "index.md").read_text()
    for document in (PROJECT / "docs").glob("*.md"):
        assert document.name == "index.md" or f"({document.name})" in text, document.name


def test_every_source_is_documented() -> None:
    """docs/datasets.md has a row of each source of `python -m shards build`."""
    rows = re.findall(r"^\| `([\w-]+)` \|", (PROJECT / "docs" / "datasets.md").read_text(), re.MULTILINE)
    assert set(rows) >= set(SOURCES)


def test_make_targets_of_documents_exist() -> None:
    """`make TARGET` in a document is a target that `make` lists, or one of its patterns."""
    listed = subprocess.run(["make", "-s", "help"], capture_output=True, text=True, check=True, cwd=PROJECT).stdout
    targets = re.findall(r"^  make ([\w-]+)", listed, re.MULTILINE)
    patterns = tuple(target.removesuffix("NAME") for target in targets if target.endswith("-NAME"))
    for document in DOCUMENTS:
        for target in re.findall(r"(?:^|`)make ([a-z][\w-]*)", document.read_text(), re.MULTILINE):
            assert target in targets or target.startswith(patterns), (document.name, target)


def test_every_score_is_explained() -> None:
    """Means over queries, scores of verification and of open-set identification have a line on docs/evaluation.md."""
    text = (PROJECT / "docs/evaluation.md").read_text()
    names = [*MEANS, *verification(torch.ones(2, dtype=torch.long), torch.ones(2, dtype=torch.long))]
    nobody = np.zeros(0, dtype=bool)
    names += identification(np.zeros(0), nobody, nobody, nobody, np.zeros(0))
    between = [f"_at_{fpr:g}" for fpr in FPRS[1:-1]]  # the page has the first and the last
    assert [n for n in names if f"`{n}`" not in text and not n.endswith(tuple(between))] == []
