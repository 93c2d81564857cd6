"""Draws docs/images/method.svg, the figure of docs/method.md: equal bytes at every run.

    python tools/method_figure.py docs/images/method.svg

It shows four resolutions over twelve layers, the paper's taps, and a toy tree of 4, 8, 16 clusters and 32 labels.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1000, 640
INK, BLUE, PALE, GREY, EDGE = "#1b1f24", "#1f5fa8", "#cfe0f3", "#ececec", "#9aa3ad"
LAYERS, FIRST_LAYER, LAYER = 12, 132, 33
TAPS = ((5, 6), (8,), (10,), (12,))
LEVELS = (4, 8, 16, 32)
KEPT = ((1, 3), (3, 6), (7, 12), (15, 24))
ROWS = (160, 285, 410, 535)
HEAD_LEFT, HEAD_WIDTH, HEAD_HEIGHT = 372, 218, 66
TREE_LEFT, TREE_WIDTH = 660, 324


def _text(x: float, y: float, words: str, size: int = 13, anchor: str = "start", **more: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def _box(x: float, y: float, width: float, height: float, fill: str, stroke: str = EDGE, radius: float = 4) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
        f'stroke="{stroke}"/>'
    )


def _arrow(*points: tuple[float, float], colour: str = INK, head: bool = True) -> str:
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    end = f' marker-end="url(#{"blue" if colour == BLUE else "ink"})"' if head else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4"{end}/>'


def _layer_middle(layer: int) -> float:
    return FIRST_LAYER + (layer - 0.5) * LAYER


def _encoder() -> Iterable[str]:
    yield _box(20, 40, 190, 46, "#fff")
    yield _text(115, 59, "text", anchor="middle", font_style="italic")
    yield _text(115, 77, "“Hydrogen storage in …”", anchor="middle")
    yield _arrow((115, 86), (115, 126))
    yield _text(124, 110, "tokens (B, T)", 12)
    tapped = {layer for layers in TAPS for layer in layers}
    for layer in range(1, LAYERS + 1):
        yield _box(40, FIRST_LAYER + (layer - 1) * LAYER, 150, LAYER - 5, PALE if layer in tapped else "#fff", EDGE)
        yield _text(115, _layer_middle(layer) + 2, f"layer {layer}", 12, "middle")
    yield _text(115, FIRST_LAYER + LAYERS * LAYER + 14, "encoder", 12, "middle", font_style="italic")


def _taps() -> Iterable[str]:
    for r, layers in enumerate(TAPS):
        for layer in layers:
            yield _arrow((190, _layer_middle(layer) - 2), (262, ROWS[r]), head=False)
        yield _box(262, ROWS[r] - 16, 66, 32, "#fff")
        yield _text(295, ROWS[r] + 5, f"h{'₀₁₂₃'[r]} (B, d)", anchor="middle")
        yield _arrow((328, ROWS[r]), (HEAD_LEFT - 3, ROWS[r]))
    yield _text(295, ROWS[0] - 24, "pool, join", 12, "middle", font_style="italic")


def _heads() -> Iterable[str]:
    for r, y in enumerate(ROWS):
        yield _box(HEAD_LEFT, y - HEAD_HEIGHT / 2, HEAD_WIDTH, HEAD_HEIGHT, "#fff")
        last = r == len(ROWS) - 1
        name = "labels" if last else f"resolution {r}"
        yield _text(HEAD_LEFT + 10, y - 12, f"head {r}: {name}", font_weight="bold")
        rows = "W (C₀, d)" if r == 0 else f"W (C{'₀₁₂'[r - 1]}·m, d)"
        yield _text(HEAD_LEFT + 10, y + 6, rows)
        scored = "scores all C₀ clusters" if r == 0 else f"scores K·m {'labels' if last else 'children'}"
        yield _text(HEAD_LEFT + 10, y + 23, scored, 12)
        yield _arrow((HEAD_LEFT + HEAD_WIDTH, y), (TREE_LEFT - 8, y))
        if not last:
            below = ROWS[r + 1] - HEAD_HEIGHT / 2
            middle = (y + HEAD_HEIGHT / 2 + below) / 2 + 3
            yield _arrow((TREE_LEFT - 34, y), (TREE_LEFT - 34, middle), (532, middle), (532, below - 3), colour=BLUE)
            yield _text(524, middle + 4, f"shortlist: best K{'₀₁₂'[r]} clusters", 12, "end", fill=BLUE)


def _node_x(r: int, node: int) -> float:
    return TREE_LEFT + (node + 0.5) * TREE_WIDTH / LEVELS[r]


def _tree() -> Iterable[str]:
    root = (TREE_LEFT + TREE_WIDTH / 2, ROWS[0] - 66)
    yield _text(root[0], root[1] - 14, "label tree", 13, "middle", font_style="italic")
    for r, C in enumerate(LEVELS):
        for node in range(C):
            parent = root if r == 0 else (_node_x(r - 1, node * LEVELS[r - 1] // C), ROWS[r - 1] + 9)
            above = 9 if r < len(LEVELS) - 1 else 5
            yield _arrow(parent, (_node_x(r, node), ROWS[r] - above), colour="#cfd4da", head=False)
    yield f'<circle cx="{root[0]:g}" cy="{root[1]:g}" r="5" fill="{PALE}" stroke="{EDGE}"/>'
    for r, C in enumerate(LEVELS):
        size = min(18.0, 0.78 * TREE_WIDTH / C)
        for node in range(C):
            reached = r == 0 or node * LEVELS[r - 1] // C in KEPT[r - 1]
            fill = BLUE if node in KEPT[r] else PALE if reached else GREY
            radius = 2 if r == len(LEVELS) - 1 else size / 2
            yield _box(_node_x(r, node) - size / 2, ROWS[r] - size / 2, size, size, fill, EDGE, radius)


def _bottom() -> Iterable[str]:
    end = TREE_LEFT + TREE_WIDTH / 2
    yield _arrow((end, ROWS[-1] + 14), (end, ROWS[-1] + 46), colour=BLUE)
    yield _text(end, ROWS[-1] + 64, "best K labels with scores (B, K) → calibrated probabilities", 12, "middle")
    x = 40.0
    for fill, words in ((BLUE, "kept"), (PALE, "scored"), (GREY, "never scored")):
        yield _box(x, 596, 14, 14, fill)
        yield _text(x + 20, 608, words, 12)
        x += 40 + 7 * len(words)


def figure() -> str:
    """The whole picture as SVG."""
    markers = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 Z" fill="{colour}"/></marker>'
        for name, colour in (("ink", INK), ("blue", BLUE))
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="Helvetica, Arial, sans-serif" fill="{INK}">',
        "<title>From a text to its labels: encoder layers, taps, heads, shortlists, and the label tree</title>",
        f"<defs>{markers}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *_encoder(), *_taps(), *_tree(), *_heads(), *_bottom(),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(figure(), encoding="utf-8")
