"""A graph as a page for browsers: a folder that any host of files serves, and that sends nothing anywhere."""

import glob
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from PIL import Image, ImageOps

import predict
from basics import disk
from basics.problems import Problem, UsageProblem, printable

ROOT = Path(__file__).resolve().parent.parent
EARLIER = "earlier"  # page, in a temporary folder while another takes its place
CONTENTS, MAKER = "contents.txt", "pneumonia: export.py page"  # the mark of a folder of ours, and its first line
GRAPH, CERTIFICATE = "model/graph.onnx", "model/certificate.json"  # whatever they are called: an address is no path
RUNTIME = "onnxruntime-web"
# From where in node_modules, and what it is called beside the page. The runtime has a part for processors and one for
# GPUs; a browser loads what it needs. All are called .js: not every host knows what an .mjs is.
VENDOR = {
    **{f"{RUNTIME}/dist/{name}": f"{RUNTIME}/{name.replace('.mjs', '.js')}" for name in (
        "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
        "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")},
    **{f"@cornerstonejs/codec-{name}/dist/{file}_decode.{kind}": f"{file}_decode.{kind}"
       for name, file in (("charls", "charlswasm"), ("libjpeg-turbo-8bit", "libjpegturbowasm"),
                          ("openjpeg", "openjpegwasm")) for kind in ("js", "wasm")},
}  # fmt: skip
# What these define, as modules: a worker that the page's security policy binds takes no other scripts.
GLOBALS = {"charlswasm_decode.js": "CharLSWASM", "libjpegturbowasm_decode.js": "libjpegturbowasm_decode",
           "openjpegwasm_decode.js": "OpenJPEGWASM"}  # fmt: skip
LICENCES = ("LICENSE", "package.json")  # where a package says its own
THUMBNAIL = 144  # pixels of a side
EXAMPLES = {  # of examples/films, what they are in the set that they come from
    "IM-0433-0001": "normal",
    "NORMAL2-IM-1242-0001-sideways": "normal, on its side",
    "person413_bacteria_1834": "bacterial pneumonia",
    "person1482_virus_2572": "viral pneumonia",
}
CREDIT = (
    "The films to try: Kermany, Zhang, Goldbaum, Mendeley Data rscbjbr9sj, version 2, CC BY 4.0 "
    "(creativecommons.org/licenses/by/4.0), made smaller, one of them turned. Networks of this project have learned "
    "from them: what they say of them says nothing of how good they are. JPEGs are read by libjpeg-turbo, "
    "which is based in part on the work of the Independent JPEG Group."
)


def write(graph: Path, out: Path) -> None:
    """Makes `out` the page of a graph, whole or not at all; an earlier page there is replaced.

    Raises Problem where the graph is none of export.py's, a package is missing, or `out` holds something else.
    """
    label, shown, out = checked(graph), printable(str(out)), Path(os.path.abspath(out))
    if not out.name:
        raise UsageProblem(f"{shown}: --out names a folder that can be replaced")
    refuse_others(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            disk.lock(out.with_name(f".{out.name}.lock"), f"{out}: another process is writing it"),
            tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".part") as temporary,
        ):
            restore(out, Path(temporary))
            made, earlier = Path(temporary) / "page", Path(temporary) / EARLIER
            fill(made, graph)
            if out.exists():
                out.rename(earlier)
            try:
                made.rename(out)
            except OSError:
                if earlier.exists():
                    earlier.rename(out)
                raise
            disk.sync_folder(out.parent)
    except OSError as error:
        raise Problem(f"cannot write {error.filename or out}: {error.strerror or error}") from error
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{shown}: the page of {label}, {size / 1e6:.1f} MB; any host of files serves it\n"
          f"such as: python -m http.server --bind 127.0.0.1 --directory {shlex.quote(shown)}    "
          "# then open http://127.0.0.1:8000")  # fmt: skip


def checked(graph: Path) -> str:
    """The graph's name and hash. Raises Problem where predict.py would not use it, or its certificate is another's."""
    if not graph.is_file():
        raise Problem(f"{graph}: {predict.what_is_there(graph)}")
    try:
        label = predict.open_model(graph, "cpu").label
    except predict.Problem as problem:
        raise Problem(problem.args[0]) from problem
    if (certificate := graph.with_suffix(".json")).is_file():
        try:
            known = disk.parse_json(certificate.read_bytes())["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise Problem(f"{certificate}: not a certificate that export.py made") from error
        if known != disk.sha256_of_file(graph):
            raise Problem(f"{certificate}: the certificate of another graph: export {graph} again, or move it away")
    return label


def refuse_others(out: Path) -> None:
    """Raises UsageProblem where `out` is something that a page would not replace: everything but an earlier page."""
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise UsageProblem(f"{out}: not a folder; --out names another place")
    try:
        maker, *ours = (out / CONTENTS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        maker, ours = "", []
    if maker == MAKER:
        known = {CONTENTS, *ours} | {parent.as_posix() for name in ours for parent in Path(name).parents}
        others = sorted({path.relative_to(out).as_posix() for path in out.rglob("*")} - known)
    else:
        others = sorted(entry.name for entry in os.scandir(out))
    if others:
        raise UsageProblem(f"{out}: holds {others[0]}, which is of no page; --out names another folder")


def restore(out: Path, but: Path) -> None:
    """Puts back the page that a killed process had moved away, and removes what such a process has left."""
    for leftover in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        if leftover != but:
            if not out.exists() and (leftover / EARLIER).is_dir():
                (leftover / EARLIER).rename(out)
            shutil.rmtree(leftover, ignore_errors=True)


def fill(folder: Path, graph: Path) -> None:
    """Writes all files of a page, at last what they are: site.json for the page, CONTENTS for the next page there."""
    version = runtime_version()
    for source, name in files_of(graph):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        if defined := GLOBALS.get(target.name):
            content += f"\nexport default {defined}\n".encode()
        disk.write_bytes(target, content)
    examples = []
    for source in sorted((ROOT / "examples" / "films").glob("*.jpeg")):
        thumbnail = f"examples/small/{source.name}"
        with Image.open(source) as image:
            small = ImageOps.fit(ImageOps.exif_transpose(image).convert("L"), (THUMBNAIL, THUMBNAIL))
        (folder / thumbnail).parent.mkdir(parents=True, exist_ok=True)
        small.save(folder / thumbnail, "JPEG", quality=80)
        examples.append(
            {"file": f"examples/{source.name}", "thumbnail": thumbnail, "about": EXAMPLES.get(source.stem, source.stem)}
        )
    disk.write_json(folder / "site.json", {
        "version": disk.VERSION,
        "graph": {
            "file": GRAPH,
            "bytes": (folder / GRAPH).stat().st_size,
            "sha256": disk.sha256_of_file(folder / GRAPH),
            "certificate": CERTIFICATE if (folder / CERTIFICATE).is_file() else None,
            "on_cpu": not_for_webgpu(folder / GRAPH),
        },
        "runtime": f"{RUNTIME} {version}",
        "examples": examples,
        "credit": CREDIT,
    })  # fmt: skip
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    disk.write_text(folder / CONTENTS, "\n".join([MAKER, *names, ""]))


def not_for_webgpu(graph: Path) -> list[str]:
    """Names of the nodes that the runtime's WebGPU does not compute: resizing with antialiasing."""
    model = onnx.load(graph, load_external_data=False)
    return [node.name for node in model.graph.node if node.op_type == "Resize"
            and any(attribute.name == "antialias" and attribute.i for attribute in node.attribute)]  # fmt: skip


def files_of(graph: Path) -> Iterator[tuple[Path, str]]:
    """Each file that is copied, and its name in the folder."""
    page, modules = ROOT / "page", ROOT / "node_modules"
    for path in sorted(page.rglob("*")):
        if path.suffix in (".html", ".css", ".js", ".svg"):
            yield path, path.relative_to(page).as_posix()
    for source, name in VENDOR.items():
        yield modules / source, f"vendor/{name}"
        package = "/".join(source.split("/")[: 2 if source.startswith("@") else 1])
        if licence := next((path for path in map((modules / package).joinpath, LICENCES) if path.is_file()), None):
            yield licence, f"vendor/LICENSE-{package.rpartition('/')[2]}"
    yield graph, GRAPH
    if (certificate := graph.with_suffix(".json")).is_file():
        yield certificate, CERTIFICATE
    for path in sorted((ROOT / "examples" / "films").glob("*")):
        yield path, f"examples/{path.name}"


def runtime_version() -> str:
    """Of the runtime in node_modules. Raises Problem where that or a decoder is missing, or is not the pinned one."""
    wanted = disk.parse_json((ROOT / "package.json").read_bytes())["dependencies"][RUNTIME]
    if missing := [source for source in VENDOR if not (ROOT / "node_modules" / source).is_file()]:
        raise Problem(f"node_modules has no {missing[0]}: `npm ci` in {ROOT} brings it")
    found = disk.parse_json((ROOT / "node_modules" / RUNTIME / "package.json").read_bytes())["version"]
    if found != wanted:
        raise Problem(f"node_modules holds {RUNTIME} {found}, not {wanted}: `npm ci` in {ROOT} brings that")
    return found
