"""Cuts STIX Two Math down to what formulas of this book may use: 44 kB instead of 403.

Run once when a formula shows a box: `python book/_art/subset_font.py FONT.woff2`. It needs fontTools,
brotli and the font of version 5.3.0 of the package @fontsource/stix-two-math.
"""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "_vendor" / "stix-two-math" / "stix-two-math.woff2"
CHARACTERS = (
    "20-7E,A0,AC,B1,B7,D7,F7,131,237,300-304,306-308,30A,30C,20D7,"  # Latin and accents
    "391-3C9,3D1,3D5,3D6,3F1,3F5,"  # Greek
    "2013,2014,2016,2018,2019,201C,201D,2026,2032-2034,203E,2061-2064,"  # dashes, primes, invisible operators
    "2102,210D,210E,210B,2110,2112,211B,2113,2115,2119,211A,211D,2124,2130,2131,2133,"  # letter-like
    "2190-2195,21A6,21D0-21D4,27F5-27FA,"  # arrows
    "2200-2209,220B,220F,2211-2213,2217,2218,221A,221D,221E,2223-222B,2234,223C,2243,2245,2248,224D,2254,"
    "2260,2261,2264,2265,226A,226B,227A,227B,2282,2283,2286,2287,2295-2299,22A4,22A5,22C5,22EE,22EF,22F1,"
    "2308-230B,23DE,23DF,25A1,25CB,27E8,27E9,2A7D,2A7E,2AAF,2AB0,"  # relations, operators, brackets
    "1D400-1D433,1D434-1D467,1D49C-1D4B5,1D538-1D550,1D6A4,1D6A5,1D6FC-1D71B,1D7D9"  # bold, italic, script
)

if __name__ == "__main__":
    from fontTools import subset

    options = ["--flavor=woff2", "--layout-features=ssty,dtls,flac,kern", "--no-hinting", "--desubroutinize"]
    names = "--name-IDs=0,1,2,3,4,5,6,13,14"  # copyright and licence stay
    subset.main([sys.argv[1], f"--unicodes={CHARACTERS}", *options, names, f"--output-file={TARGET}"])
