"""Draws docs/architecture.svg from the imports, so that it cannot drift: `python docs/architecture.py`.

A box is a room, or a file at the door; an arrow leads to what it imports, unless another arrow leads there too, by way
of a room between. tests/test_structure.py fails while the picture is older than the imports.
"""

import ast
import graphlib
import html
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
LIBRARIES = ("data", "models")  # files at the door that others import
WIDTH, GAP, LINE, LETTERS = 960, 46, 15, 7.0  # pixels; of a letter, about


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
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def draw(files: dict[str, Path]) -> str:
    """The picture, as SVG: scripts above, what all stand on below."""
    rooms = rooms_of(imports_of(files))
    height_of = levels(rooms)
    doors = [name for name in rooms if name not in LIBRARIES and not any(name in wanted for wanted in rooms.values())]
    doors += ["predict"] * ("predict" in rooms and "predict" not in doors)
    top = max(height_of[name] for name in rooms if name not in doors) + 1
    floors: dict[int, list[tuple[str, list[str]]]] = {top: [("at the door", sorted(doors))]}
    for name in rooms:
        if name not in doors:
            inside = sorted(f.partition(".")[2] for f in files if f.startswith(name + ".")) or []
            floors.setdefault(height_of[name], []).append((name, inside))
    boxes, parts, y = {}, [], 14
    for level in sorted(floors, reverse=True):
        share = (WIDTH - 20 - 24 * (len(floors[level]) - 1)) / len(floors[level])
        tall = 0
        for k, (name, inside) in enumerate(floors[level]):
            wide = min(share, 560)
            x = 10 + k * (share + 24) + (share - wide) / 2
            lines = textwrap.wrap(", ".join(inside), max(int((wide - 24) / LETTERS), 10))
            boxes[name] = (x, y, wide, 30 + LINE * len(lines))
            tall = max(tall, boxes[name][3])
            label = name if name == "at the door" or name in LIBRARIES else f"{name}/"
            label = f"{label}.py" if name in LIBRARIES else label
            parts += [f'<rect x="{x:.0f}" y="{y}" width="{wide:.0f}" height="{boxes[name][3]}" rx="6"/>',
                      f'<text class="name" x="{x + 12:.0f}" y="{y + 20}">{html.escape(label)}</text>']  # fmt: skip
            parts += [f'<text x="{x + 12:.0f}" y="{y + 22 + LINE * (n + 1)}">{html.escape(line)}</text>'
                      for n, line in enumerate(lines)]  # fmt: skip
        y += tall + GAP
    arrows = dict(direct({name: wanted - set(doors) for name, wanted in rooms.items() if name not in doors}))
    arrows["at the door"] = direct(rooms | {"at the door": set().union(*(rooms[door] for door in doors)) - set(doors)})[
        "at the door"
    ]
    lines = []
    for name, wanted in sorted(arrows.items()):
        below = sorted(wanted, key=lambda other: boxes[other][0])
        for k, other in enumerate(below):
            x, top_y, wide, tall = boxes[name]
            start = x + wide * (k + 1) / (len(below) + 1)
            over = boxes[other]
            end = min(max(start, over[0] + 14), over[0] + over[2] - 14)
            lines.append(f'<path d="M{start:.0f} {top_y + tall}L{end:.0f} {over[1] - 5}" marker-end="url(#tip)"/>')
    style = ("rect{fill:#f4f6f8;stroke:#5b6b7a}path{stroke:#5b6b7a;fill:none}"
             "text{font:12px sans-serif;fill:#222}.name{font-weight:bold;font-size:13px}")  # fmt: skip
    tip = ('<marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">'
           '<path d="M0 0L7 4L0 8"/></marker>')  # fmt: skip
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - GAP + 14}" width="{WIDTH}">'
    ground = '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>'
    return "\n".join([head, f"<style>{style}</style><defs>{tip}</defs>{ground}", *lines, *parts, "</svg>"]) + "\n"


def main() -> int:
    PICTURE.write_text(draw(files_of(ROOT)), encoding="utf-8")
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
