"""The words of code and pages: US spelling, the field's terms, no metaphors."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import error_texts  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PAGES = [p for p in PAGES if not {"_build", "generated", "evidence"} & set(p.parts)]
SOURCE = sorted((ROOT / "src" / "scivae").rglob("*.py"))
# Patterns of words, and what to write.
JARGON = {
    r"house": "layout",
    r"rooms?(?= (a|as|of|that|may|is|are)\b)": "folder",
    r"verbs?": "function",
    r"whoever|nobody": "name who",
    r"one's own": "the user's",
    r"by heart": "memorize",
    r"stands? in place of": "replaces",
    r"no view of": "not a view of",
    r"all the same": "even so",
    r"equally many": "the same number of",
    r"next to nothing": "almost nothing",
    r"(a|an|the|each|every|any|two|straight|along) walks?": "path",
    r"(label|model|cancel)l(ed|ing)": "US spelling",
    r"\w*(normal|minim|maxim|optim|standard|summar|memor|recogn|initial|regular|general|penal)"
    r"is(e[ds]?|ing|ation)": "US spelling",
    r"(neighb|col|behavi|fav)ours?": "US spelling",
    r"(?<!`)licences?(?!=|: str|, homepage)": "US spelling",  # the name of a field keeps its spelling
    r"grey|centred?|centres|towards|amongst|whilst": "US spelling",
    r"(is|are|were) no (counts?|numbers?|observations?|measurements?|trends?|views?|cells?)": "is not",
    r"tells? of|speaks? (of|for)": "shows, describes",
    r"for want of|not to be had": "without, not available",
    r"how surely|surely": "with what confidence",
    r"on the way": "along the path, or during the run",
    r"some(body|one)('s own| else's)": "custom",
    r"set beside|stands? beside": "compared with, next to",
    r"by judges": "with independent classifiers",
}


@pytest.mark.parametrize("pattern", JARGON)
def test_jargon_is_not_used(pattern):
    word = re.compile(rf"(?<![\w.-])(?:{pattern})(?![\w-])", re.IGNORECASE)
    for file in [*SOURCE, *PAGES]:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            for found in word.finditer(line):
                where = f"{file.relative_to(ROOT)}:{number}"
                pytest.fail(f"{where} says {found[0]!r}; write: {JARGON[pattern]}")


def test_descriptions_name_their_subject():
    """Docstrings and their paragraphs do not begin with a riddle: ``Of the model.``, ``What is held.``"""
    for file in SOURCE:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for line in (ast.get_docstring(node) or "").splitlines():
                    assert not re.match(r" *(Of|What|Which is|Where to)\b", line), (
                        file,
                        line,
                    )


TEXTS = list(error_texts.texts())


def test_texts_of_errors_are_found():
    assert len(TEXTS) > 300
    assert {"ValueError", "TypeError", "KeyError", "Warning"} <= {text.kind for text in TEXTS}


VALUE = r"\b(got|but|because|has|holds|makes?|is|are|exists|cannot)\b"
# A rule that is its own cure: a range, a type, or a list of choices.
IS_CURE = (
    r"must lie in|must be (at least|at most|finite|positive|an integer|a number)"
    r"|must be (one value|one of|true or false|a finite)|train_size|must be …, got|is not\.…$"
)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{text.file}:{text.line}")
def test_errors_speak_one_dialect(text):
    """``X must …, got Y; cure.``"""
    if text.kind in ("ValueError", "TypeError", "KeyError") and text.text not in ("…; ….", "…: …."):
        assert not re.search(r": got |, found …|but is …[;.]|`", text.text), text.text
        assert text.text.endswith((".", "?", "…")), text.text
        assert re.search(VALUE, text.text), f"names no value: {text.text}"
        cure = re.search(r"; |\. [A-Z]|…\.…$", text.text)
        assert cure or re.search(IS_CURE, text.text), f"names no cure: {text.text}"


def test_the_page_of_errors_has_every_text():
    page = error_texts.page()
    for text in TEXTS:
        assert error_texts._escaped(text.text) in page
