"""The report as a browser draws it, without a network: in light and in dark, with text where text should be."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path

import pytest

from hone.evaluation.charts import Interval, interval_chart
from hone.evaluation.report import write_report
from tests.evaluation.test_report import result

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH, HEIGHT = 1000, 1600
# Of the style sheet: --page, and the well of a good verdict.
COLOURS = {"light": ((0xF6, 0xF6, 0xF3), (0xE6, 0xF3, 0xEA)), "dark": ((0x14, 0x17, 0x1A), (0x18, 0x30, 0x1F))}

Pixels = list[list[tuple[int, int, int]]]


def browse(page: Path, folder: Path, *options: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}"]
    done = subprocess.run(
        [*command, *options, page.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=300, check=True
    )
    return done.stdout


def read_png(path: Path) -> Pixels:
    """Rows of pixels of an 8-bit picture with three or four channels (PNG specification, 9: filtering)."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, packed, header = 8, b"", b""
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        header = body if kind == b"IHDR" else header
        packed += body if kind == b"IDAT" else b""
        place += length + 12
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    assert (depth, colour in (2, 6)) == (8, True)
    channels = 3 if colour == 2 else 4
    raw, rows, before = zlib.decompress(packed), [], bytearray(width * channels)
    for number in range(height):
        start = number * (width * channels + 1)
        before = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + width * channels]), before, channels)
        line = before
        rows.append([(line[at], line[at + 1], line[at + 2]) for at in range(0, width * channels, channels)])
    return rows


def unfiltered(kind: int, line: bytearray, above: bytearray, channels: int) -> bytearray:
    for at in range(len(line)):
        left = line[at - channels] if at >= channels else 0
        corner = above[at - channels] if at >= channels else 0
        up = above[at]
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        elif kind == 4:
            estimate = left + up - corner
            guess = min((left, up, corner), key=lambda one, estimate=estimate: abs(estimate - one))  # type: ignore[misc]
        else:
            guess = 0
        line[at] = (line[at] + guess) % 256
    return line


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium on the path")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_drawn_in_both_schemes(tmp_path: Path, scheme: str) -> None:
    page, picture = write_report(tmp_path, result()), tmp_path / "page.png"
    preferred = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    browse(page, tmp_path / "profile", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}", preferred)
    rows = read_png(picture)
    assert (len(rows), len(rows[0])) == (HEIGHT, WIDTH)
    counts = Counter(pixel for row in rows for pixel in row)
    ground, well = COLOURS[scheme]
    assert counts[ground] > 0.02 * WIDTH * HEIGHT, counts.most_common(5)
    assert counts[well] > 0.01 * WIDTH * HEIGHT, "the verdict is at the top"
    assert rows[0][0] == ground
    written = [row for row in rows if len(set(row)) > 10]
    assert len(written) > 0.3 * HEIGHT, "text and charts, not a blank page"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium on the path")
@pytest.mark.parametrize(("width", "least", "most"), [(360, 250, 300), (1000, 700, 800)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_fill_a_telephone_and_a_screen(tmp_path: Path, width: int, least: int, most: int, scheme: str) -> None:
    """One of the two drawings is shown, in the page's colours, and nothing reaches beyond the right edge."""
    report = write_report(tmp_path, result()).read_text(encoding="utf-8")
    opening, style = report.partition("<body>")[0], "bad"
    drawing = interval_chart(
        [Interval("A row with a long name " * 9, 1.0, 0.0, 2.0, "1.0", style)], "t", zero_line=True
    )
    page, picture = tmp_path / "chart.html", tmp_path / "chart.png"
    page.write_text(f"{opening}<body><main><section>{drawing}</section></main></body></html>", encoding="utf-8")
    preferred = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    browse(page, tmp_path / "profile", f"--window-size={width},400", f"--screenshot={picture}", preferred)
    rows = read_png(picture)
    bad = {"light": (0xB3, 0x26, 0x1E), "dark": (0xFF, 0x9B, 0x93)}[scheme]
    places = [(x, y) for y, row in enumerate(rows) for x, pixel in enumerate(row) if pixel == bad]
    across, down = [x for x, _ in places], [y for _, y in places]
    # The whisker from 0 to 2 spans the axis, and its dot is 11 pixels high, not shrunk and not blown up.
    assert least <= max(across) - min(across) <= most
    assert 7 <= max(down) - min(down) <= 16, "one drawing, not both"
    assert all(row[-1] == COLOURS[scheme][0] for row in rows), "nothing scrolls sideways"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium on the path")
@pytest.mark.parametrize("width", [360, 1000])
def test_the_page_does_not_scroll_sideways(tmp_path: Path, width: int) -> None:
    page, picture = write_report(tmp_path, result()), tmp_path / "page.png"
    preferred = "--blink-settings=preferredColorScheme=1"
    browse(page, tmp_path / "profile", f"--window-size={width},{HEIGHT}", f"--screenshot={picture}", preferred)
    assert all(row[-1] == COLOURS["light"][0] for row in read_png(picture))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium on the path")
def test_the_browser_keeps_all_of_the_page(tmp_path: Path) -> None:
    page = write_report(tmp_path, result())
    seen = browse(page, tmp_path / "profile", "--dump-dom")
    for part in ("verdict", "comparison", "open", "answers", "training", "data", "proof", "repeat"):
        assert f'id="{part}"' in seen
    assert seen.count("<svg") == page.read_text(encoding="utf-8").count("<svg")
    assert "<script" not in seen
