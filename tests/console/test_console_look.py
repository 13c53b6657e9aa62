"""The palette's contrast (WCAG 2.2, 1.4.3 and 1.4.11) and what the files around it may hold."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

STATIC = files("soundkeep.console") / "static"
STYLE = (STATIC / "console.css").read_text("utf-8")

TEXT = [
    (ink, ground)
    for ink in ("text", "muted", "accent", "accent-strong", "danger", "danger-strong")
    for ground in ("page", "surface", "sunken", "raised")
] + [
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("on-tint", "tint"),
    ("on-danger", "danger"),
    ("on-danger", "danger-strong"),
    ("on-alarm", "alarm"),
    ("on-good", "good"),
    ("on-care", "care"),
    ("text", "tint"),
]
EDGES = [
    ("edge", "surface"),
    ("accent", "surface"),
    ("accent", "page"),
    ("danger", "surface"),
]


def palettes() -> dict[str, dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks)
    assert light.keys() == dark.keys()
    return {"light": light, "dark": dark}


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_black_on_white_is_twenty_one_to_one():
    assert round(contrast("#000000", "#ffffff"), 2) == 21


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), TEXT)
def test_text_is_readable(scheme, ink, ground):
    palette = palettes()[scheme]

    assert contrast(palette[ink], palette[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("edge", "ground"), EDGES)
def test_inputs_and_focus_rings_stand_out(scheme, edge, ground):
    palette = palettes()[scheme]

    assert contrast(palette[edge], palette[ground]) >= 3


def test_colours_come_from_the_palette():
    rules = re.sub(r":root \{.*?\}|url\(.*?\)", "", STYLE, flags=re.DOTALL)

    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", rules) == []


def test_nothing_is_fetched_from_elsewhere():
    own = [STYLE, (STATIC / "console.js").read_text("utf-8")]
    templates = (files("soundkeep.console") / "templates").iterdir()
    for text in [*own, *(each.read_text("utf-8") for each in templates)]:
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)
        assert [each for each in found if "www.w3.org" not in each] == []
