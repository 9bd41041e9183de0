"""A folder of documents as text with headings: Markdown, plain text, HTML, PDF, JSON Lines.

Every problem of every file is reported together. What is no document is left out by name, never in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from hone.errors import ConfigError, DataError, MissingDependencyError, StorageError
from hone.files import sha256_file

__all__ = ["DOCUMENT_KINDS", "Document", "Documents", "Section", "list_documents", "read_documents"]


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a document under one heading.

    Args:
        heading: the headings above it, as ``Returns > Abroad``; ``page 3`` of a PDF, ``line 7`` of JSON Lines.
        text: what stands there.
        start: where ``text`` begins in the document's text, in characters.
    """

    heading: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Document:
    """One file.

    Args:
        source: its path inside the folder, with ``/``.
        sha256: of its bytes.
        sections: its text in order.
    """

    source: str
    sha256: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Documents:
    """What a folder held.

    Args:
        documents: the files that have text, by name.
        left_out: path inside the folder and reason, for each file that is not read.
    """

    documents: tuple[Document, ...]
    left_out: tuple[tuple[str, str], ...]


def list_documents(folder: Path) -> list[Path]:
    """The files of a folder and of those in it, by name; names that begin with a dot are not looked at.

    Raises:
        ConfigError: there is no such folder, or it holds no file.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []
    found = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise ConfigError(
            f"{folder} is no folder with documents in it",
            where="--documents",
            remedy=f"name a folder of files that end in {', '.join(DOCUMENT_KINDS)}",
        )
    return found


def read_documents(folder: Path) -> Documents:
    """Read every document of a folder.

    Args:
        folder: looked through with all folders in it.

    Raises:
        ConfigError: there is no such folder, or it holds no file.
        DataError: files that cannot be read as what their names say, all of them; or none has any text.
        MissingDependencyError: there is a PDF, and no pypdf.
        StorageError: a file cannot be opened.
    """
    documents: list[Document] = []
    left_out: list[tuple[str, str]] = []
    problems: list[str] = []
    for path in list_documents(folder):
        name = path.relative_to(folder).as_posix()
        reader = DOCUMENT_KINDS.get(path.suffix.lower())
        if reader is None:
            left_out.append((name, f"files that end in '{path.suffix}' are not read"))
            continue
        try:
            sections = tuple(section for section in reader(path) if section.text.strip())
            digest = sha256_file(path)
        except OSError as error:
            raise StorageError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        if sections:
            documents.append(Document(name, digest, sections))
        else:
            left_out.append((name, "it has no text"))
    if problems:
        raise DataError(
            f"{len(problems)} of the documents cannot be read",
            where=str(folder),
            details=problems,
            why="an answer that needs them would count against retrieval",
            remedy="mend the files, or take them out of the folder",
        )
    if not documents:
        raise DataError(
            "none of the files has text to search",
            where=str(folder),
            details=[f"{name}: {reason}" for name, reason in left_out],
            remedy=f"give files that end in {', '.join(DOCUMENT_KINDS)}",
        )
    return Documents(tuple(documents), tuple(left_out))


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _plain(path: Path) -> Iterator[Section]:
    yield Section("", _text_of(path), 0)


_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$")


def _markdown(path: Path) -> Iterator[Section]:
    text = _text_of(path)
    above: list[tuple[int, str]] = []
    start = position = 0
    fenced = False
    for line in text.splitlines(keepends=True):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        found = None if fenced else _HEADING.match(line.rstrip("\n"))
        if found:
            yield Section(" > ".join(name for _, name in above), text[start:position], start)
            level = len(found[1])
            above = [*((depth, name) for depth, name in above if depth < level), (level, found[2])]
            start = position + len(line)
        position += len(line)
    yield Section(" > ".join(name for _, name in above), text[start:], start)


def _html(path: Path) -> Iterator[Section]:
    reader = _HtmlText()
    reader.feed(_text_of(path))
    reader.close()
    yield from reader.sections()


class _HtmlText(HTMLParser):
    """The text that a page shows, cut at its headings."""

    _SILENT = frozenset({"head", "noscript", "script", "style", "svg", "template"})
    _INLINE = frozenset(
        {"a", "abbr", "b", "bdi", "cite", "code", "em", "i", "kbd", "mark", "q", "s", "small", "span", "strong", "sub"}
        | {"sup", "time", "u", "var", "wbr", "label", "font"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._silent: list[str] = []
        self._level = 0
        self._pieces: list[str] = []
        self._heading: list[str] = []
        self._above: list[tuple[int, str]] = []
        self._done: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._SILENT:
            self._silent.append(tag)
        elif re.fullmatch(r"h[1-6]", tag):
            self._end_section()
            self._level, self._heading = int(tag[1]), []
        elif tag not in self._INLINE:
            self._pieces.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if self._silent and tag == self._silent[-1]:
            self._silent.pop()
        elif self._level and tag == f"h{self._level}":
            title = " ".join("".join(self._heading).split())
            self._above = [one for one in self._above if one[0] < self._level] + [(self._level, title)]
            self._level = 0
        elif tag not in self._INLINE:
            self._pieces.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            (self._heading if self._level else self._pieces).append(data)

    def _end_section(self) -> None:
        paragraphs = [" ".join(part.split()) for part in "".join(self._pieces).split("\n\n")]
        self._done.append((" > ".join(name for _, name in self._above), "\n\n".join(filter(None, paragraphs))))
        self._pieces = []

    def sections(self) -> Iterator[Section]:
        self._end_section()
        start = 0
        for heading, text in self._done:
            yield Section(heading, text, start)
            start += len(text) + 2


def _json_lines(path: Path) -> Iterator[Section]:
    start = 0
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        heading, text = _json_text(value, number)
        yield Section(heading, text, start)
        start += len(text) + 1


_TEXT_KEYS = ("text", "content", "body", "passage", "contents", "answer")
_TITLE_KEYS = ("title", "heading", "name", "question", "id")


def _json_text(value: object, number: int) -> tuple[str, str]:
    if isinstance(value, str):
        return f"line {number}", value
    if not isinstance(value, dict):
        raise ValueError(f"line {number} is neither an object nor a string")
    strings = {key: one for key, one in value.items() if isinstance(one, str)}
    title = next((strings[key] for key in _TITLE_KEYS if strings.get(key)), f"line {number}")
    text = next((strings[key] for key in _TEXT_KEYS if key in strings), None)
    if text is None:
        raise ValueError(f"line {number} has none of the keys {', '.join(_TEXT_KEYS)} with a text")
    return title, text


def _pdf(path: Path) -> Iterator[Section]:
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise MissingDependencyError(
            "reading PDF files needs pypdf", where=str(path), remedy="pip install 'hone-llm[pdf]'"
        ) from error
    start = 0
    try:
        for number, page in enumerate(pypdf.PdfReader(path).pages, 1):
            text = page.extract_text()
            yield Section(f"page {number}", text, start)
            start += len(text) + 1
    except PyPdfError as error:
        raise ValueError(f"is no PDF that can be read: {error}") from error


# How each kind of file is read, by the end of its name.
DOCUMENT_KINDS: dict[str, Callable[[Path], Iterator[Section]]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".txt": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".jsonl": _json_lines,
}
