"""Draws docs/architecture.svg from the imports, so that it cannot drift: `python docs/architecture.py`.

A box is a room, or a file at the door; an arrow leads to what it imports, unless another arrow leads there too, by way
of a room between. tests/test_structure.py fails while the picture is older than the imports.
"""

import ast
import functools
import graphlib
import html
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
LIBRARIES = ("data", "models")  # files at the door that others import
DOOR = "at the door"
WIDTH, GAP, LINE, LETTER = 960, 46, 15, 7.0  # pixels; of a letter, about
STYLE = """<style>
rect { fill: #f4f6f8; stroke: #5b6b7a } path { stroke: #5b6b7a; fill: none }
text { font: 12px sans-serif; fill: #222 } .name { font-weight: bold; font-size: 13px }
</style>
<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">
<path d="M0 0L7 4L0 8"/></marker></defs>
<rect width="100%" height="100%" style="fill: #fff; stroke: none"/>"""


@functools.cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def files_of(root: Path) -> dict[str, Path]:
    """Each file by the name that it is imported by: "train", "films.images"; tests, examples and documents apart."""
    rooms = [init.parent for init in sorted(root.glob("*/__init__.py"))]
    found = [*sorted(root.glob("*.py")), *(path for room in rooms for path in sorted(room.glob("*.py")))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in found}


def imports_of(files: dict[str, Path]) -> dict[str, set[str]]:
    """For each file those that it imports, anywhere in it."""
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        wanted: set[str] = set()
        for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                wanted |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        found[name] = {other for other in wanted & set(files) if "." in other or files[other].name != "__init__.py"}
    return found


def room_of(name: str) -> str:
    """The room of a file; a file at the door is a room of its own."""
    return name.partition(".")[0]


def rooms_of(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """For each room those that it imports."""
    found: dict[str, set[str]] = {}
    for name, wanted in imports.items():
        here = room_of(name)
        found.setdefault(here, set()).update({room_of(other) for other in wanted} - {here})
    return found


def levels(rooms: dict[str, set[str]]) -> dict[str, int]:
    """How high each room lies: above all that it imports. Raises graphlib.CycleError, which names a circle."""
    found: dict[str, int] = {}
    for room in graphlib.TopologicalSorter(rooms).static_order():
        found[room] = max((found[other] + 1 for other in rooms[room]), default=0)
    return found


def direct(rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that a way through another room replaces."""

    def reached(room: str) -> set[str]:
        return {room} | {far for other in rooms[room] for far in reached(other)}

    return {room: {other for other in wanted if not any(other in reached(via) for via in wanted - {other})}
            for room, wanted in rooms.items()}  # fmt: skip


def plan(files: dict[str, Path]) -> tuple[list[dict[str, list[str]]], dict[str, set[str]]]:
    """Floors from top to bottom, each with its boxes and the files in them, and the arrows from box to box."""
    rooms = rooms_of(imports_of(files))
    doors = {name for name, path in files.items() if path.parent.name not in rooms and name not in LIBRARIES}
    house = {name: wanted - doors for name, wanted in rooms.items() if name not in doors}
    height_of = levels(house)
    house[DOOR] = set().union(*(rooms[door] for door in doors)) - doors
    arrows, floors = direct(house), [{DOOR: sorted(doors)}]
    for level in sorted(set(height_of.values()), reverse=True):
        above = [name for floor in floors for name in floor]

        def place(name: str, above: list[str] = above) -> float:
            """Below those that it is imported by, so that few arrows cross."""
            theirs = [k for k, other in enumerate(above) if name in arrows[other]]
            return sum(theirs) / len(theirs) if theirs else 0

        names = sorted((name for name in height_of if height_of[name] == level), key=lambda name: (place(name), name))
        floors.append({name: sorted(f.partition(".")[2] for f in files if f.startswith(f"{name}.")) for name in names})
    return floors, arrows


def draw(files: dict[str, Path]) -> str:
    """The picture, as SVG: scripts above, what all stand on below."""
    floors, arrows = plan(files)
    boxes: dict[str, tuple[float, float, float, float]] = {}  # x, y, width and height of each
    parts, y = [], 14.0
    for floor in floors:
        share = (WIDTH - 20 - 24 * (len(floor) - 1)) / len(floor)
        wide = min(share, 560)
        texts = {name: textwrap.wrap(", ".join(inside), int((wide - 24) / LETTER)) for name, inside in floor.items()}
        for k, (name, lines) in enumerate(texts.items()):
            x = 10 + k * (share + 24) + (share - wide) / 2
            boxes[name] = (x, y, wide, 30 + LINE * len(lines))
            label = name if name == DOOR else f"{name}.py" if name in LIBRARIES else f"{name}/"
            parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{boxes[name][3]:.0f}" rx="6"/>')
            parts.append(f'<text class="name" x="{x + 12:.0f}" y="{y + 20:.0f}">{html.escape(label)}</text>')
            parts += [f'<text x="{x + 12:.0f}" y="{y + 22 + LINE * (n + 1):.0f}">{html.escape(line)}</text>'
                      for n, line in enumerate(lines)]  # fmt: skip
        y += max(boxes[name][3] for name in floor) + GAP
    lines = [arrow(boxes, name, k, other, len(wanted)) for name, wanted in arrows.items()
             for k, other in enumerate(sorted(wanted, key=lambda other: (boxes[other][0], other)))]  # fmt: skip
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - GAP + 14:.0f}" width="{WIDTH}">'
    return "\n".join([head, STYLE, *sorted(lines), *parts, "</svg>"]) + "\n"


def arrow(boxes: dict[str, tuple[float, float, float, float]], name: str, k: int, other: str, count: int) -> str:
    """From one box down to another, the k-th of so many that leave it."""
    x, y, wide, tall = boxes[name]
    start = x + wide * (k + 1) / (count + 1)
    left, top, width, _ = boxes[other]
    end = min(max(start, left + 14), left + width - 14)
    return f'<path d="M{start:.0f} {y + tall:.0f}L{end:.0f} {top - 5:.0f}" marker-end="url(#tip)"/>'


def main() -> int:
    PICTURE.write_text(draw(files_of(ROOT)), encoding="utf-8")
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
