"""The fixed documents that httpbin serves, all our own."""

from __future__ import annotations

import zlib

MODIFIED = "Mon, 02 Jan 2023 00:00:00 GMT"

HTML = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>A page</title></head>
<body><h1>The lighthouse keeper's log</h1>
<p>Wind from the north since dawn, as every day in August. Three sails passed before noon and one came back.</p>
</body></html>
"""

JSON = """{
  "harbour": {
    "name": "Meltem Bay",
    "boats": [
      {"name": "Alcyone", "sails": 2, "crew": ["Ada", "Nikos"]},
      {"name": "Zephyr", "sails": 1, "crew": []}
    ]
  }
}
"""

XML = """<?xml version="1.0" encoding="utf-8"?>
<harbour name="Meltem Bay">
  <boat name="Alcyone" sails="2"/>
  <boat name="Zephyr" sails="1"/>
</harbour>
"""

UTF8 = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>UTF-8</title></head>
<body><h1>Wind, written down</h1>
<ul><li>English: wind</li><li>Ελληνικά: άνεμος</li><li>Türkçe: rüzgâr</li><li>Русский: ветер</li><li>עברית: רוח</li>
<li>العربية: ريح</li><li>हिन्दी: हवा</li><li>日本語: 風</li><li>한국어: 바람</li><li>⛵ ∑ √ ≠ ½</li></ul></body></html>
"""

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"><rect width="100" height="100" fill="#0d3b56"/>
<path d="M52 20v50h26zM47 34v36H26z" fill="#fbf7ef"/><path d="M20 74h60l-8 12H28z" fill="#e07a5f"/></svg>
"""


def png(size: int = 16) -> bytes:
    """A square picture, sea below and sky above."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    sky, sea = b"\xe8\xf3\xf4" * size, b"\x0b\x7a\x8f" * size
    rows = b"".join(b"\0" + (sky if row < size // 2 else sea) for row in range(size))
    head = size.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def index(endpoints: list[str]) -> str:
    """The list of endpoints as a page."""
    rows = "".join(f"<li><code>{text}</code></li>\n" for text in endpoints)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>httpbin</title></head>\n'
        f"<body><h1>httpbin</h1><p>It answers with what it was asked.</p><ul>\n{rows}</ul></body></html>\n"
    )
