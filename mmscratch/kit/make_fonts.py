"""The typefaces that `kit.typeset` prints with, cut down to ASCII from versioned, checksummed packages.

    python -m mmscratch.kit.make_data fonts

Writes ``data/fonts/<face>.ttf``. Hinting, kerning and all other characters are left out, so that a letter is
drawn alike on every machine and a face takes about 15 kB. None of the families has a reserved font name.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ASCII = range(32, 127)

FACES = (  # family, weight and style as in the package's file names
    "archivo-narrow-400-normal", "arimo-400-normal", "arimo-700-normal", "barlow-400-normal",
    "bitter-400-normal", "cabin-400-normal", "cousine-400-normal", "crimson-pro-500-normal",
    "eb-garamond-500-normal", "inter-500-normal", "jetbrains-mono-400-normal", "karla-400-normal",
    "libre-baskerville-400-normal", "montserrat-500-normal", "nunito-600-normal", "open-sans-400-normal",
    "oswald-400-normal", "roboto-400-normal", "roboto-700-normal", "roboto-mono-400-normal",
    "roboto-slab-400-normal", "rubik-400-normal", "spectral-400-normal", "tinos-400-italic",
    "tinos-400-normal", "work-sans-400-normal", "zilla-slab-400-normal",
)  # fmt: skip

PACKAGES = {  # family: npm package @fontsource/<family>, its version and sha512
    "archivo-narrow": (
        "5.3.0",
        "fK2Y7PdIP23+t5Dp7gh9n94zxTCdHD6M955aJ8QzR6RvW+5WgmryKySEvaCUAeSLXzA113hyW0BwEHHxHADX7Q==",
    ),  # noqa: E501
    "arimo": (
        "5.3.0",
        "nhxZ2sTVZYX8DJBgLuyX360B5vE4mxqpmjlKTRfucIqfcWRVx9vOYzWBc1IgEX0ist48VMC10PRKbFyH+4QFvQ==",
    ),  # noqa: E501
    "barlow": (
        "5.3.0",
        "tGR0y6QObRtKv71MOth44222+mdNFM/ZWFWDV1VLzNbG4oK9PNRlyJzmkck4vHAi9ibHBXgt4SlY51amFP55CA==",
    ),  # noqa: E501
    "bitter": (
        "5.3.0",
        "RYfrDnaja7v6FO8AwknA5aw/BuVgLBJvwLIShkS42XUIxMbvi/yp47Ax/Xnn9OTVIGFiTXCbVsH0O9HhTTDtqA==",
    ),  # noqa: E501
    "cabin": (
        "5.3.0",
        "c2NSbpO6XSqaq6E6ztHqgdNxzCPJCxkNvnSEjkQRidlL3Ycac00sS9XTRT6RfMFeB3+C7V3vgN1S40nM6lthuw==",
    ),  # noqa: E501
    "cousine": (
        "5.3.0",
        "EhVes1KpHrmPwGVCoVxYpdiIi/L2LRGxbAuv07m3TdY76f9Vmwyhd/TNqi2RC0NOvMCNt2FtYPJcAfFfkK9DoQ==",
    ),  # noqa: E501
    "crimson-pro": (
        "5.3.0",
        "PXQH0NGma2wwskZAySBH+s/ezAYBwyDH0I4oRURBu9u81nNUCm5DcNCJaUS9H0UR1y8qlslLfVRU6mnDBpffrA==",
    ),  # noqa: E501
    "eb-garamond": (
        "5.3.0",
        "VplwHpB8FLuzl+4G5LDci1b3Z4SghiuXH8XEgaxjnOb5aue5mEt1njmDKeO6iyLeGa73LffU7PC7hzncLRx0ZA==",
    ),  # noqa: E501
    "inter": (
        "5.3.0",
        "RofMylZmjlJEfELXeNHFWBRcSs75rGU/6bV2S2jfnvv/3rPXPGe0LgUJTklcHZ9lM4OZmAVFhcJPnACfb91A3g==",
    ),  # noqa: E501
    "jetbrains-mono": (
        "5.3.0",
        "fqDfB5I9f1p1TV486aUgB9t8zP84P0O1FtQR5Ol9vjwPy+S+EIGlVYm1cvj2W5shcZMTg2nZFdVMoH5wFu8a1A==",
    ),  # noqa: E501
    "karla": (
        "5.3.0",
        "zHBkxMumwFE+K4RgHQAv2xH0O2lAX9y4zPun5JEFZyNQQclZ5Oz/XvByE3CB5+rnxKEV5BXlZShIEfz0VILDmQ==",
    ),  # noqa: E501
    "libre-baskerville": (
        "5.3.0",
        "IA6OLq36/JWMX70Fha15sri2qWsijFh7hgdDXCRZHjKUHtWarLQoiGilvm7iMqm7HiYFEv9acF3+IuRHO9kUiA==",
    ),  # noqa: E501
    "montserrat": (
        "5.3.0",
        "iQPDtZOnmM5ih4JBGaMSXisRap0ixb9bAUw2hDtY7EjVfaqiiNlKtVuJl9XclxUwtwMMHNcWXfQR6zI9x05+Tg==",
    ),  # noqa: E501
    "nunito": (
        "5.3.0",
        "vw9TaTQJ/zpEpKrsODuPmOvaVjXgdda6B+xXA4YqjrdeJ62MLgVoDerdRXFQHyBnSCt2yQ2nHKCHPP/Pv7Xq4Q==",
    ),  # noqa: E501
    "open-sans": (
        "5.3.0",
        "V1bdMlGNyZrJwzrdusshMOw2YR0aqYDL7kOo9dkxUEKl8dFv66A9HLckOOXl572sG/7ohhDQrCrTFGSn9LZcSw==",
    ),  # noqa: E501
    "oswald": (
        "5.3.0",
        "16r2aHActe0pH+9FLdk/74/YxXM7HpGak05kAzx3RvSToiJwGvyhv6GvckPz+YuZmvL1nxWbEop2jAXRcXYPRg==",
    ),  # noqa: E501
    "roboto": (
        "5.3.0",
        "BapRJOWYP+LZ21zp+wBQjfpPYKRoxc4LspJ/RLuI+HSMBD5u/X4O+ESDrSvEqDSy0rAl7GwBJ+09mdc16cVQ1Q==",
    ),  # noqa: E501
    "roboto-mono": (
        "5.3.0",
        "yhwplHMHW9dCk+1pZuERfcJe+K3rosGVZEoK0XktkxRSqQ9qsipSwwiuW2/8Qmtp9lzu3Ixa/ie4BMH3i8CkZQ==",
    ),  # noqa: E501
    "roboto-slab": (
        "5.3.0",
        "nrl4sOt5OIoMV3VecGVOnNAADU/8vz6+CLtLr4cCAf106hVtSLCTObPN8Z2KdZ03U01UDvgIp3hsu2TX3jen6w==",
    ),  # noqa: E501
    "rubik": (
        "5.3.0",
        "Nks2mn7vlE1jZVHuVgoKU2Ejqjvd+GJzLRdraCjo1xc79oo7O6vJ8pcvSfmKPGX3/Ln7nt09XWFzPeu2jWf0xQ==",
    ),  # noqa: E501
    "spectral": (
        "5.3.0",
        "2TL5WWGOZj4SIsBmPFEzKeA60tXXd1Qp1OqaaVEWkJL8IfSGLk6YmiusmC441iFkdJDIuFelu1r8lhCmQUU3mw==",
    ),  # noqa: E501
    "tinos": (
        "5.3.0",
        "VVDyyZdbcsLKxo/W7rClAvacD/7DsGc7J5xzzp51Tndib8kDkEe/0bqbb3Xb3iH6+IUjt07aRsvtQ9MGeGGi4w==",
    ),  # noqa: E501
    "work-sans": (
        "5.3.0",
        "3cKV28+bEiLGdyOl0VgEGCFWE1XdZJu/K+nH4Jt76XC3T//XrRtm2EF7jA61GSMIy8sYp6ZFTE01nD3lLaBV9A==",
    ),  # noqa: E501
    "zilla-slab": (
        "5.3.0",
        "xbdDx5OESJDQqp3GIp4pjBgI+qpcg4AxnHLN15ekfJbG+ZYaOXg3uBjDpYlkuPQpey91afxHBNaqZgzluJ2FWA==",
    ),  # noqa: E501
}
APACHE = {"roboto-slab"}  # the others are under the SIL Open Font License


def build(write: Callable[[Path, bytes], None], fetch: Callable[[str], Path], folder: Path) -> None:
    """Write every face below `folder`. `fetch` returns the archive of an npm package, `write` stores a file.

    Raises ValueError where an archive has another checksum than the one above.
    """
    for face in FACES:
        write(folder / f"{face}.ttf", cut(face, fetch(package(family(face)))))
    print(f"fonts: {len(FACES)} faces of {len(PACKAGES)} families")


def family(face: str) -> str:
    return face.rsplit("-", 2)[0]


def package(name: str) -> str:
    return f"@fontsource/{name}@{PACKAGES[name][0]}"


def cut(face: str, archive: Path) -> bytes:
    """One face as TrueType with the printable ASCII characters alone."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    name, weight, style = face.rsplit("-", 2)
    content, expected = archive.read_bytes(), PACKAGES[name][1]
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != expected:
        raise ValueError(f"{archive} has sha512-{found}; expected sha512-{expected}")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        woff = tar.extractfile(f"package/files/{name}-latin-{weight}-{style}.woff").read()
    font = TTFont(io.BytesIO(woff), recalcTimestamp=False)
    font.flavor = None
    options = subset.Options(hinting=False, layout_features=[], name_IDs=[0, 1, 2, 13, 14])
    options.drop_tables += ["DSIG", "STAT", "MVAR", "HVAR", "gasp"]
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=ASCII)
    cutter.subset(font)
    stream = io.BytesIO()
    font.save(stream)
    return stream.getvalue()


def entries() -> dict[str, dict[str, str]]:
    """What the manifest says of each face."""
    return {
        f"fonts/{face}.ttf": {
            "licence": "Apache-2.0" if family(face) in APACHE else "OFL-1.1",
            "origin": f"npm package {package(family(face))}, sha512-{PACKAGES[family(face)][1]}; "
            f"printable ASCII without hinting, fontTools {version('fonttools')}",
            "credit": "The Mozilla Foundation"
            if family(face) == "zilla-slab"
            else f"The {family(face).replace('-', ' ').title()} Project Authors",
        }
        for face in FACES
    }
