"""Documents of each kind, read into sections whose places are places in their text; and what cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hone.errors import ConfigError, DataError, MissingDependencyError
from hone.retrieval import read_documents


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        stem, _, kind = name.rpartition("_")
        (folder / f"{stem}.{kind}").write_text(text, encoding="utf-8")
    return folder


def test_markdown_has_headings_and_places(tmp_path: Path) -> None:
    text = "Intro.\n# Returns\nSixty days.\n## Abroad ##\nNinety days.\n```\n# no heading\n```\n# Price\nTen pounds.\n"
    [document] = read_documents(write(tmp_path / "d", rules_md=text)).documents
    assert [(section.heading, section.text.split("\n")[0]) for section in document.sections] == [
        ("", "Intro."),
        ("Returns", "Sixty days."),
        ("Returns > Abroad", "Ninety days."),
        ("Price", "Ten pounds."),
    ]
    for section in document.sections:
        assert text[section.start : section.start + len(section.text)] == section.text
    assert "# no heading" in document.sections[2].text


def test_html_is_what_the_page_shows(tmp_path: Path) -> None:
    page = (
        "<html><head><title>no</title><style>p {}</style></head><body><p>First &amp; best.</p><h1>Re<b>turns</b></h1>"
        "<p>Sixty <i>days</i>.</p><script>alert(1)</script><ul><li>one</li><li>two</li></ul>"
        "<h2>Abroad</h2>Ninety</body>"
    )
    [document] = read_documents(write(tmp_path / "d", page_html=page)).documents
    assert [(section.heading, section.text) for section in document.sections] == [
        ("", "First & best."),
        ("Returns", "Sixty days.\n\none\n\ntwo"),
        ("Returns > Abroad", "Ninety"),
    ]


def test_json_lines_take_title_and_text(tmp_path: Path) -> None:
    lines = '{"title": "Kenya", "text": "Low."}\n\n"a bare string"\n{"body": "without title", "n": 1}\n'
    [document] = read_documents(write(tmp_path / "d", rows_jsonl=lines)).documents
    assert [(section.heading, section.text) for section in document.sections] == [
        ("Kenya", "Low."),
        ("line 3", "a bare string"),
        ("line 4", "without title"),
    ]


def small_pdf(text: str) -> bytes:
    """A PDF of one page by hand, after the PDF reference: catalogue, page tree, page, font, content."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 200] /Contents 5 0 R "
        b"/Resources << /Font << /F1 4 0 R >> >> >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    content, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(content)
    return content + b"xref\n0 6\n0000000000 65535 f \n" + table + end


def test_a_pdf_is_read_by_pages(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "terms.pdf").write_bytes(small_pdf("Lamps return within sixty days."))
    [document] = read_documents(tmp_path).documents
    assert [(one.heading, one.text) for one in document.sections] == [("page 1", "Lamps return within sixty days.")]


def test_a_damaged_pdf_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "terms.pdf").write_bytes(b"no pdf at all")
    with pytest.raises(DataError) as raised:
        read_documents(tmp_path)
    assert raised.value.details[0].startswith("terms.pdf: is no PDF that can be read")


def test_a_pdf_without_pypdf_names_the_line_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    (tmp_path / "terms.pdf").write_bytes(small_pdf("x"))
    with pytest.raises(MissingDependencyError) as raised:
        read_documents(tmp_path)
    assert raised.value.remedy == "pip install 'hone-llm[pdf]'"


def test_what_is_no_document_is_left_out_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", a_txt="Text.", b_png="x", c_txt="  \n")
    (folder / ".hidden.txt").write_text("no", encoding="utf-8")
    (folder / "inner").mkdir()
    (folder / "inner" / "d.TXT").write_text("Deep.", encoding="utf-8")
    found = read_documents(folder)
    assert [document.source for document in found.documents] == ["a.txt", "inner/d.TXT"]
    assert dict(found.left_out) == {"b.png": "files that end in '.png' are not read", "c.txt": "it has no text"}


def test_all_problems_come_together(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", good_txt="Text.", rows_jsonl='{"text": "a"}\n{bad\n', keys_jsonl='{"x": "y"}\n')
    (folder / "latin.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(DataError, match="3 of the documents cannot be read") as raised:
        read_documents(folder)
    names = [detail.partition(":")[0] for detail in raised.value.details]
    assert names == ["keys.jsonl", "latin.txt", "rows.jsonl"]
    assert "line 2" in raised.value.details[2]


def test_no_folder_and_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder with documents"):
        read_documents(tmp_path / "absent")
    with pytest.raises(DataError, match="none of the files has text"):
        read_documents(write(tmp_path / "d", a_txt=" "))
