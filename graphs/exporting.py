"""From a checkpoint to a graph that is proven, and from such a graph to another threshold."""

import argparse
import contextlib
import hashlib
import re
import shlex
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError

import data
import predict
from basics import disk
from basics.problems import Problem
from devices import hardware
from films import seen, sources
from graphs import building, certificates, doubts, joining, precisions, proof, sessions, unusual
from training import averaging, checkpoints, schema

SEEN_AT_LEAST = 8  # training images, to find the ranges of activations from


CERTIFICATE = schema.record(
    ("threshold_changes", "seen", "doubts"),
    sha256=schema.text,
    data=schema.record(("folders",), source=schema.text, split=schema.text, folders=schema.FOLDERS),
    reference=schema.record(("validation", "test", "odd"), **dict.fromkeys(("validation", "test", "odd"),
                                                                  schema.table(schema.text))),
    versions=schema.record(torch=schema.text, onnxruntime=schema.text),
    seen=schema.table(lambda value: isinstance(value, str)),
    doubts=schema.record(odd=lambda value: isinstance(value, str), images=schema.table(schema.text)),
    threshold_changes=schema.every(schema.record(sha256=schema.text)),
)  # fmt: skip


def export(paths: list[Path], args: argparse.Namespace) -> int:
    """Exports and proves one checkpoint, or the ensemble of several, in each precision; returns how many failed.

    Raises Problem when nothing can be exported at all. What failed leaves no graph of its name.
    """
    what = ", ".join(map(str, paths))
    checkpoint, network, checkpoint_hash = opened(paths)
    targets = {precision: args.onnx / f"{named(checkpoint, precision)}.onnx" for precision in args.precision}
    for target in targets.values():
        keep_the_better(target, checkpoint)
    source, classes = sources.place_of(args, checkpoint["data"])
    dataset = data.load(source, checkpoint["size"], args.cache, checkpoint["fit"], args.skip_bad, classes)
    split = data.split_again(dataset, checkpoint["split"])
    same = data.is_own(split, dataset, checkpoint)
    if not same:
        print(f"note: {source} is not the data {what} was trained on; images to compare on are taken all the same, "
              "and scores on them may flatter")  # fmt: skip
    about = {"name": dataset.name, "source": dataset.source, "fingerprint": dataset.fingerprint,
             "split": split.fingerprint, "split_is_the_models": same,
             "test": data.contents(dataset, {"test": split.test}), **sources.classes_to_remember(classes)}  # fmt: skip
    if len(split.test):  # the proof scores the graph on test labels
        args.looked(checkpoint["name"], checkpoint_hash, dataset.name, about["test"], "export.py")
    if "limits" not in checkpoint:
        which = what if len(paths) == 1 else f"{what}: one of them"
        print(f"note: {which} is of an earlier version, which kept no limits: the graph has no output "
              f"{', '.join(doubts.OUTPUTS)}; train again for these")  # fmt: skip
    expected = proof.reference(network, checkpoint, dataset, split, alpha=args.promise)
    plain = plain_graphs(network, checkpoint, checkpoint_hash)
    failures = 0
    for precision in args.precision:
        try:
            calibration = calibration_images(checkpoint, dataset, split) if precision == "int8" else None
            graph = whole_graph(plain, checkpoint, precision, calibration, args.promise)
            write(graph, targets[precision], expected, about, seen.of_checkpoint(checkpoint), args.verbose)
        except Problem as problem:  # the other precisions can still be exported
            failures += 1
            print(f"error: {what}, {precision}: {problem}", file=sys.stderr)
    return failures


def opened(paths: list[Path]) -> tuple[dict, torch.nn.Module, str]:
    """A checkpoint, its network and its file's SHA-256; of several those of their ensemble.

    Raises Problem where one is missing, damaged or unfinished, or where several cannot be averaged.
    """
    for path in paths:
        if path.suffix.lower() == ".onnx" and path.is_file():
            raise Problem(f"{path}: that is a graph: a run's model.pt can be exported; python export.py verify "
                          f"{shlex.quote(str(path))} proves the graph again")  # fmt: skip
    loaded, hashes = [checkpoints.load_checkpoint(path) for path in paths], [disk.sha256_of_file(p) for p in paths]
    members = [checkpoint for checkpoint, _ in loaded]
    for path, member in zip(paths, members, strict=True):
        if when := checkpoints.stopped(member):
            raise Problem(f"{path}: its training was stopped {when}: the same train.py command with --resume "
                          "finishes it, and then there is a graph to make")  # fmt: skip
    if len(paths) == 1:
        return *loaded[0], hashes[0]
    if len({member["weights_sha256"] for member in members}) < len(members):
        raise Problem(f"{', '.join(map(str, paths))}: the same network twice, and an ensemble is of different ones")
    if reason := averaging.unlike(members):
        raise Problem(f"{', '.join(map(str, paths))}: they {reason}; an ensemble is of several seeds of one network, "
                      "as train.py --seeds makes them")  # fmt: skip
    made = averaging.combined(members, hashes)
    stems = {re.sub(r"-s\d+$", "", member["name"]) for member in members}
    made["name"] = f"{stems.pop() if len(stems) == 1 else made['architecture']}-ensemble"
    return made, averaging.Averaged([network for _, network in loaded], members).eval(), averaging.digest(hashes)


def plain_graphs(network: torch.nn.Module, checkpoint: dict, checkpoint_hash: str) -> list[onnx.ModelProto]:
    """The float32 graph of a network; of an ensemble those of its members, the first of which says what it is."""
    if not isinstance(network, averaging.Averaged):
        return [building.to_graph(network, checkpoint, checkpoint_hash)]
    facts = [{**checkpoint, "normalisation": own} for own in network.normalisations]
    made = [building.bare_graph(member, own) for member, own in zip(network.members, facts, strict=True)]
    onnx.helper.set_model_props(made[0], building.metadata(checkpoint, checkpoint_hash))
    return made


def whole_graph(
    plain: list[onnx.ModelProto], checkpoint: dict, precision: str, calibration: np.ndarray | None, alpha: float
) -> onnx.ModelProto:
    """The graph that is written: in a precision, of one network or of several, and with what it does not know."""
    parts = [precisions.to_precision(graph, precision, calibration) for graph in plain]
    if len(parts) > 1:
        parts = [joining.joined(parts, [member["temperature"] for member in checkpoint["members"]])]
    return doubts.attached(parts[0], checkpoint, alpha)


def named(checkpoint: dict, precision: str) -> str:
    return checkpoint["name"] + ("" if precision == "fp32" else f"-{precision}")


def keep_the_better(target: Path, checkpoint: dict) -> None:
    """Raises Problem where a graph of drawings, or of a smoke run, would take the place of one of real films."""
    lesser = [what for what, is_so in (("of drawings", checkpoint["data"]["synthetic"]),
                                       ("of a --quick run", checkpoint["quick"])) if is_so]  # fmt: skip
    if not lesser or not target.is_file():
        return
    facts = facts_at(target)
    try:
        real = building.fact(facts, "data")["synthetic"] is False and building.fact(facts, "quick") is False
    except (KeyError, TypeError, ValueError, Problem):  # no graph of ours: nothing is lost
        return
    if real:
        raise Problem(f"{target} is a graph of real films, and this one is {' and '.join(lesser)}: --onnx names "
                      "another folder for it, or train.py --name another name")  # fmt: skip


def facts_at(target: Path) -> dict[str, str]:
    """What an earlier graph of that name says of itself; nothing where there is none."""
    try:
        return building.facts_of(onnx.load(target, load_external_data=False))
    except (DecodeError, OSError):
        return {}


def threshold_set_in(target: Path) -> float | None:
    """The threshold that somebody set in an earlier graph of that name; None of any other."""
    facts = facts_at(target)
    try:
        changed = "threshold" in facts and facts.get("threshold_rule") != building.rule_of_export(facts)
        return float(building.fact(facts, "threshold")) if changed else None
    except (TypeError, ValueError, Problem):  # no graph of ours
        return None


def calibration_images(checkpoint: dict, dataset: data.Dataset, split: data.Split) -> np.ndarray:
    """(N, S, S) uint8: training images, spread over the set; of other data than the model's, those that it has seen."""
    known = split.train.tolist()
    if not data.is_own(split, dataset, checkpoint):
        trained = seen.of_dataset(dataset, seen.of_checkpoint(checkpoint)).pixels
        known = [i for i in known if trained[i]]
    if len(known) < SEEN_AT_LEAST:
        raise Problem(f"int8 takes its ranges from training images, and {dataset.source} has {len(known)} that this "
                      "model was trained on; --data names the data it was trained on")  # fmt: skip
    places = np.linspace(0, len(known) - 1, min(building.CALIBRATION_IMAGES, len(known))).astype(int)
    return dataset.images[[known[i] for i in places]]


def write(
    graph: onnx.ModelProto,
    target: Path,
    expected: proof.Reference,
    about: dict,
    record: seen.Record,
    verbose: bool = False,
) -> None:
    """Proves a graph and gives it its name, with its certificate beside it. Raises Problem when it differs."""
    names, unchecked = proof.providers()
    facts, replaced = building.facts_of(graph), threshold_set_in(target)
    certificate = target.with_suffix(".json")
    with disk.atomic_path(certificate) as beside, disk.atomic_path(target) as temporary:
        temporary.write_bytes(building.sealed(graph))
        with refused_on_failure(target):
            found = proof.prove(temporary, expected, names, verbose)
        report = {
            "file": target.name,
            "sha256": disk.sha256_of_file(temporary),
            "metadata": facts,
            "opset": building.OPSET,
            "data": about,
            "seen": seen.packed(record),  # of training and validation: what the graph may not be tested on
            **certificates.certificate(expected, found),
            "not_checked": unchecked,
            "device": hardware.describe_device(torch.device("cpu")),
            "versions": versions(),
        }
        disk.write_json(beside, report)  # both are written before either gets its name
    print("\n".join(["", *unchecked]))
    synthetic = ", SYNTHETIC training data" if building.fact(facts, "data")["synthetic"] else ""
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {building.fact(facts, 'precision')['name']}, "
          f"opset {building.OPSET}{synthetic}; certificate: {certificate}")  # fmt: skip
    if replaced is not None:
        print(f"note: the threshold that was set in the earlier graph ({replaced:g}) is gone; validation's "
              f"({building.fact(facts, 'threshold'):g}) takes its place")  # fmt: skip
    print(f"next: python predict.py {shlex.quote(str(target))} FILM_OR_FOLDER\n")


def versions() -> dict[str, str]:
    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "torch": str(torch.__version__)}


@contextlib.contextmanager
def refused_on_failure(target: Path) -> Generator[None]:
    """A graph that failed leaves nothing under its name; an earlier one of that name is kept as .onnx.old."""
    try:
        yield
    except Problem:
        if target.exists():
            target.replace(target.with_suffix(".onnx.old"))
        raise


def open_certified(path: Path) -> tuple[onnx.ModelProto, dict]:
    """A graph and its certificate. Raises Problem when one is missing or damaged, or is not the other's."""
    beside = path.with_suffix(".json")
    refuse_checkpoint(path)
    for file in (path, beside):
        if not file.is_file():
            raise Problem(f"{file}: no such file" + (", and it certifies the graph" if file == beside else ""))
    try:
        kept = disk.parse_json(beside.read_bytes())
        if not CERTIFICATE(kept):
            raise ValueError("something is missing or of another kind")
        stated = {kept["sha256"], *(change["sha256"] for change in kept.get("threshold_changes", [])[-1:])}
    except (OSError, ValueError) as error:
        raise Problem(f"{beside}: not a certificate that export.py wrote ({str(error)[:200]})") from error
    found = disk.sha256_of_file(path)
    if found not in stated:
        raise Problem(f"{path} is not the graph that {beside.name} certifies: its SHA-256 starts with {found[:16]}, "
                      f"not {kept['sha256'][:16]}; take the two files that belong together")  # fmt: skip
    graph, changing = load(path), found != kept["sha256"]
    try:
        certificates.check_metadata(kept, building.facts_of(graph), building.OF_THRESHOLD if changing else ())
    except Problem as problem:
        raise Problem(f"{path}: {problem} ({beside.name})") from problem
    return graph, kept | {"found": found}


def naming(path: Path, problem: Problem) -> str:
    """What went wrong with a file, which is named once."""
    return str(problem) if str(problem).startswith(str(path)) else f"{path}: {problem}"


def verify_command(args: argparse.Namespace) -> int:
    """Repeats the proof of graphs from their certificates; exit code 1 when one differs or cannot be checked."""
    failures = 0
    for path in args.graphs:
        try:
            verify_one(path, args)
        except Problem as problem:
            failures += 1
            print(f"error: {naming(path, problem)}", file=sys.stderr)
    return 1 if failures else 0


def verify_one(path: Path, args: argparse.Namespace) -> None:
    graph, kept = open_certified(path)
    if kept["found"] != kept["sha256"]:
        raise Problem("a change of its threshold was broken off; the same `export.py threshold` completes it")
    facts = sessions.opened(path)[1]
    source, classes = sources.place_of(args, kept["data"])
    if not args.data and source != "phantoms" and not Path(source).exists():
        raise Problem(f"it was exported with {source}, which is not here; --data names the folder with its images")
    dataset = data.load(source, facts["size"], args.cache, facts["fit"], args.skip_bad, classes)
    expected, total = certificates.remembered(kept, facts, dataset, doubts.known_of(graph))
    count = len(set(map(unusual.pixel_hash, expected.images)))
    if "test" in expected.sides:
        # Earlier versions did not name the test films apart from the split.
        films = kept["data"].get("test", kept["data"]["split"])
        args.looked(path.name, kept["sha256"], dataset.name, films, "export.py verify")
    print(f"{path}: {count:,} of {total:,} different images of its certificate found in {dataset.source}"
          f"{'' if count == total else '; the others are not checked'}")  # fmt: skip
    print(f"{certificates.coverage(kept, expected)}\n")
    names, unchecked = proof.providers()
    proof.prove(path, expected, names, args.verbose)
    print("\n".join(["", *unchecked]))
    print(f"{path}: the same answers as PyTorch's, by {path.with_suffix('.json')} of {kept['versions']['torch']}; "
          f"onnxruntime {onnxruntime.__version__} here, {kept['versions']['onnxruntime']} there\n")  # fmt: skip


def threshold_command(args: argparse.Namespace) -> int:
    """Writes another threshold into graphs, their metadata and their certificates."""
    for path in args.graphs:
        change_threshold(path, args.threshold, args.sensitivity)
    return 0


def change_threshold(path: Path, threshold: float | str | None, sensitivity: float | None = None) -> None:
    """The certificate is written first: whoever is killed in between has a graph that is refused, and can call again.

    threshold: a number, or "validation" for the one that the graph was exported with.
    sensitivity: in place of the threshold, what validation chose one for.
    Raises Problem when the graph is none of export.py's, or when anything but decisions would change.
    """
    graph, kept = open_certified(path) if path.with_suffix(".json").exists() else (load(path), None)
    rule, promised = building.BY_HAND, ""
    if threshold is None:
        rule, threshold, promised = chosen_point(path, graph, sensitivity or 0)
    elif isinstance(threshold, str):
        rule, threshold, promised = point_of_export(path, graph)
    earlier_rule = building.facts_of(graph).get("threshold_rule")
    try:
        old = building.set_threshold(graph, threshold, rule)
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from problem
    broken_off = kept is not None and kept["found"] != kept["sha256"]
    if (old, earlier_rule) == (threshold, rule) and not broken_off:
        print(f"{path}: threshold {threshold:g}: already so, nothing written{promised}")
        return
    content = building.sealed(graph)
    check_decisions(path, content, threshold)
    if kept:
        before = kept.pop("found")
        changes = kept.get("threshold_changes", [])
        earlier = changes[:-1] if broken_off else changes
        made = hashlib.sha256(content).hexdigest()
        this = {"sha256": before, "from": old, "to": threshold, "how": rule}
        kept |= {
            "sha256": made,
            "metadata": building.facts_of(graph),
            "threshold_changes": [*earlier, *([this] if made != before else [])],  # else one is taken back, broken off
        }
        disk.write_json(path.with_suffix(".json"), kept)
    disk.write_bytes(path, content)
    print(f"{path}: threshold {threshold:g}, was {old:g}; probabilities are as they were"
          f"{'' if kept else '; there is no certificate beside it'}{promised}")  # fmt: skip


def chosen_point(path: Path, graph: onnx.ModelProto, sensitivity: float) -> tuple[str, float, str]:
    """The name of an operating point, its threshold, and a line on what validation found of it, or "".

    Raises Problem where validation chose no threshold for that sensitivity.
    """
    facts, name = building.facts_of(graph), f"sensitivity {100 * sensitivity:g} %"
    points = building.fact(facts, "operating_points") if "operating_points" in facts else {}
    if not schema.points(points) or name not in points:
        found = predict.sensitivities(points) if schema.points(points) else ""
        there = f"but for {found}" if found else "nor for any other"
        raise Problem(f"{path}: --sensitivity {sensitivity:g}: no operating point for it in this graph, {there}")
    point = points[name]
    said = predict.promised(name, point)
    return name, point["threshold"], said and f"\n{said}"


def point_of_export(path: Path, graph: onnx.ModelProto) -> tuple[str, float, str]:
    """As `chosen_point`, of the threshold that a graph is exported with, whatever it was changed to since.

    Raises Problem where the graph does not say it.
    """
    facts = building.facts_of(graph)
    points = building.fact(facts, "operating_points") if "operating_points" in facts else {}
    if not schema.points(points):
        raise Problem(f"{path}: it does not say what validation chose: export its checkpoint again")
    said = predict.promised("validation", points["validation"])
    return building.rule_of_export(facts), points["validation"]["threshold"], said and f"\n{said}"


def refuse_checkpoint(path: Path) -> None:
    """Raises Problem for a checkpoint, or for the folder of a run, where a graph is meant."""
    inside = path / "model.pt" if path.is_dir() else path
    if inside.suffix.lower() in (".pt", ".pth") and inside.is_file():
        raise Problem(f"{path}: that is a checkpoint: python export.py {shlex.quote(str(inside))} makes a graph of it")


def load(path: Path) -> onnx.ModelProto:
    refuse_checkpoint(path)
    if not path.is_file():
        raise Problem(f"{path}: no such file")
    return building.examine(path)


def check_decisions(path: Path, content: bytes, threshold: float) -> None:
    """Old and new graph on the same pixels: equal outputs, but for decisions and `refer`, by the new threshold."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 50), np.uint8)
    pixels >>= np.arange(8, dtype=np.uint8)[:, None, None]  # from bright to black
    try:
        earlier = sessions.open_graph(path)
        names = [output.name for output in earlier.get_outputs()]
        before = sessions.graph_outputs(earlier, pixels, 8, names)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        after = sessions.graph_outputs(session, pixels, 8, names)
    except Problem:
        raise
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception directly
        raise Problem(f"{path}: the changed graph does not run ({str(error).splitlines()[0]})") from error
    same = all(np.array_equal(before[name], after[name]) for name in names if name not in ("decision", "refer"))
    decided = np.array_equal(after["decision"], after["probability"] >= np.float32(threshold))
    if not same or not decided or ("refer" in names and not doubts.refers(after)):
        raise Problem(f"{path}: the changed graph does not decide by the new threshold; it was left as it is")


def export_command(args: argparse.Namespace) -> int:
    paths = sorted(args.runs.glob("[!.]*/model.pt")) if args.all else args.checkpoints
    if not paths:
        raise Problem(f"no checkpoint {args.runs}/*/model.pt: python train.py makes one")
    lots = [paths] if args.ensemble else [[path] for path in paths]
    failures = 0
    for lot in lots:
        print(", ".join(map(str, lot)))
        try:
            failures += export(lot, args)
        except Problem as problem:  # the others can still be exported; the exit code tells
            failures += len(args.precision)
            print(f"error: {naming(lot[0], problem)}", file=sys.stderr)
    if failures < len(lots) * len(args.precision):
        places = "".join(f" --{name} {shlex.quote(str(vars(args)[name]))}" for name in ("runs", "onnx")
                         if vars(args)[name] != Path(name))  # fmt: skip
        print(f"and: python evaluate.py --all{places}")
    return 1 if failures else 0


def work(args: argparse.Namespace) -> int:
    commands = {"export": export_command, "verify": verify_command, "threshold": threshold_command}
    return commands[args.command](args)
