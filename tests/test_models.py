import functools
import hashlib
import http.server
import pickle
import threading
from pathlib import Path

import pytest
import torch
import torchvision

import models
from basics import terms
from basics.problems import Problem
from training import checkpoints


@pytest.fixture(scope="module")
def imagenet_like() -> dict[str, torch.Tensor]:
    """A torchvision resnet34 state dict with an RGB stem and 1,000 classes, of random values."""
    torch.manual_seed(0)
    return torchvision.models.resnet34(weights=None).state_dict()


@pytest.mark.parametrize("architecture", terms.ARCHITECTURES)
def test_every_parameter_gets_a_gradient(architecture):
    torch.manual_seed(0)
    network = models.build(architecture, 64)
    logits = network(torch.randn(4, 1, 64, 64))
    assert logits.shape == (4, 2)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_simple_is_the_notebooks_network():
    network = models.build("simple", 224)
    # The notebooks' 5,406,606 parameters, less two input channels of 6 filters of 5 x 5.
    assert models.parameter_count(network) == 5_406_606 - 2 * 6 * 25
    assert network.fc1.in_features == 44_944
    shapes = [tuple(parameter.shape) for parameter in network.parameters() if parameter.dim() > 1]
    assert shapes == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 44_944), (84, 120), (2, 84)]
    # By hand: 220^2 outputs of 25 products by 6 filters, 106^2 of 150 by 16, and the linear layers.
    by_hand = 220**2 * 25 * 6 + 106**2 * 150 * 16 + 44_944 * 120 + 120 * 84 + 84 * 2
    assert models.multiply_adds(network, 224) == by_hand


@pytest.mark.parametrize("size", [32, 33, 64, 100, 225])
def test_simple_takes_any_size(size):
    assert models.build("simple", size)(torch.zeros(2, 1, size, size)).shape == (2, 2)


def test_resnet34_is_torchvisions_but_for_stem_and_head():
    network = models.build("resnet34")
    published = 21_797_672  # torchvision's documented count for resnet34 with 1,000 classes
    assert models.parameter_count(network) == published - 2 * 64 * 49 - 998 * 513
    # torchvision documents 3.664 billion multiply-adds; less two stem channels (112^2 x 49 x 64) and 998 outputs.
    assert models.multiply_adds(network, 224) == pytest.approx(3.664e9 - 2 * 112**2 * 49 * 64 - 998 * 512, rel=1e-3)


def test_unknown_architecture():
    with pytest.raises(ValueError, match="unknown architecture 'resnet'"):
        models.build("resnet")


# ------------------------------------------------------------------------------------------ pretrained weights


def test_the_folded_stem_answers_a_grey_image_as_the_rgb_stem_does(imagenet_like):
    """What summing over colours preserves: the answer to three equal channels, through the whole network."""
    rgb = torchvision.models.resnet34(weights=None, num_classes=2)
    grey = models.build("resnet34-pretrained")
    state = {**imagenet_like, "fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    grey.load_state_dict(models.adapt_imagenet(state, grey, "x.pth"))
    rgb.load_state_dict({**imagenet_like, "fc.weight": grey.fc.weight, "fc.bias": grey.fc.bias})
    images = torch.randn(2, 1, 96, 96)
    with torch.no_grad():
        for mode in (True, False):
            expected = rgb.train(mode)(images.expand(-1, 3, -1, -1))
            torch.testing.assert_close(grey.train(mode)(images), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_weights_are_taken_as_float32(imagenet_like, tmp_path):
    halves = {name: t.half() if t.is_floating_point() else t for name, t in imagenet_like.items()}
    torch.save(halves, tmp_path / "half.pth")
    network = models.build("resnet34-pretrained")
    head = network.fc.weight.clone()
    origin = models.load_imagenet(network, tmp_path / "half.pth")
    assert "half.pth" in origin and hashlib.sha256((tmp_path / "half.pth").read_bytes()).hexdigest()[:12] in origin
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert torch.equal(network.layer3[0].conv1.weight, halves["layer3.0.conv1.weight"].float())
    assert torch.equal(network.fc.weight, head)  # the head is the network's own


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("layer1.0.conv1.weight", None, "no tensor layer1.0.conv1.weight"),
        ("conv1.weight", torch.zeros(64, 1, 7, 7), r"conv1.weight has shape \(64, 1, 7, 7\)"),
        ("layer4.0.conv1.weight", torch.zeros(2, 2), r"layer4.0.conv1.weight has shape \(2, 2\)"),
        ("module.conv1.weight", torch.zeros(64, 3, 7, 7), "unexpected tensor module.conv1.weight"),
        ("bn1.weight", torch.full((64,), float("nan")), "bn1.weight holds values that are not finite"),
        ("bn1.bias", "text", "no tensor bn1.bias"),
    ],
)
def test_wrong_weights_are_refused_by_the_first_mismatch(imagenet_like, name, change, complaint):
    state = {**imagenet_like, name: change}
    if change is None:
        del state[name]
    with pytest.raises(Problem, match=complaint):
        models.adapt_imagenet(state, models.build("resnet34-pretrained"), "x.pth")


def test_files_that_are_no_state_dict_are_refused(tmp_path):
    network = models.build("resnet34-pretrained")
    with pytest.raises(Problem, match="none.pth: no such file"):
        models.load_imagenet(network, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(Problem, match="text.pth: not a torch state dict"):
        models.load_imagenet(network, tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(Problem, match="list.pth: not a torch state dict, but a list"):
        models.load_imagenet(network, tmp_path / "list.pth")


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path on 127.0.0.1."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_the_download_is_checked_by_its_hash(imagenet_like, tmp_path, server, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.save(imagenet_like, tmp_path / "x.pth")
    digest = hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()[:8]
    for name in (f"resnet34-{digest}.pth", "resnet34-00000000.pth"):
        (tmp_path / name).write_bytes((tmp_path / "x.pth").read_bytes())
    network = models.build("resnet34-pretrained")
    monkeypatch.setattr(models, "IMAGENET_URL", f"{server}/resnet34-{digest}.pth")
    assert models.load_imagenet(network) == f"ImageNet weights resnet34-{digest}.pth"
    assert torch.equal(network.layer1[0].conv1.weight, imagenet_like["layer1.0.conv1.weight"])
    monkeypatch.setattr(models, "IMAGENET_URL", f"{server}/resnet34-00000000.pth")
    with pytest.raises(Problem, match="invalid hash value"):
        models.load_imagenet(network)
    monkeypatch.setattr(models, "IMAGENET_URL", f"{server}/resnet34-11111111.pth")
    with pytest.raises(Problem, match="could not be downloaded.*File not found.*connect to the internet.*--weights"):
        models.load_imagenet(network)


def test_offline_one_line_says_both_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(models, "IMAGENET_URL", "http://127.0.0.1:9/resnet34-b627a593.pth")  # nobody listens there
    with pytest.raises(Problem) as caught:
        models.load_imagenet(models.build("resnet34-pretrained"))
    assert "connect to the internet" in str(caught.value) and "--weights" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_published_address_carries_its_hash():
    assert models.IMAGENET_URL == "https://download.pytorch.org/models/resnet34-b627a593.pth"


# -------------------------------------------------------------------------------------------- the checkpoint


FACTS = {
    "name": "simple", "architecture": "simple", "classes": ["NORMAL", "PNEUMONIA"], "size": 32, "fit": "stretch",
    "normalisation": [0.5, 0.2], "initial_weights": "random", "recipe": {}, "quick": False, "seed": 0, "device": "CPU",
    "data": {"name": "films", "fingerprint": "d", "source": "films", "synthetic": False}, "versions": {},
    "split": {"how": "patient", "seed": 0, "fingerprint": "s"}, "seen_images": torch.tensor([1]),
    "seen_patients": torch.tensor([2]), "threshold_rule": "a rule", "epoch": 0, "history": [], "temperature": 1.0,
    "threshold": 0.5,
}  # fmt: skip


def saved(path: Path, **changes) -> Path:
    torch.manual_seed(0)
    network = models.build("simple", 32)
    checkpoints.save_checkpoint(path, {**FACTS, "state": network.state_dict(), **changes})
    return path


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    checkpoint, network = checkpoints.load_checkpoint(saved(tmp_path / "model.pt", threshold=0.25))
    assert checkpoint["threshold"] == 0.25
    assert not network.training
    torch.manual_seed(0)
    expected = models.build("simple", 32)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_other_weights_than_the_hash_says_are_noticed(tmp_path):
    path = saved(tmp_path / "model.pt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state"]["fc1.bias"] += 1
    torch.save(checkpoint, path)
    with pytest.raises(Problem, match="model.pt: the weights do not match their SHA-256"):
        checkpoints.load_checkpoint(path)


@pytest.mark.parametrize(("key", "value"), [
    ("size", 10**6), ("size", 32.0), ("normalisation", [0.5, 0.0]), ("temperature", float("nan")), ("temperature", 0),
    ("threshold", float("inf")), ("threshold", True), ("classes", ["PNEUMONIA", "NORMAL"]), ("fit", []), ("data", {}),
    ("name", "../x"), ("epoch", 1), ("seen_images", [1]), ("operating_points", {}), ("architecture", "resnet50"),
])  # fmt: skip
def test_a_value_that_cannot_be_is_named(tmp_path, key, value):
    with pytest.raises(Problem, match=f"model.pt: its {key} is "):
        checkpoints.load_checkpoint(saved(tmp_path / "model.pt", **{key: value}))


def test_a_shape_of_terabytes_over_one_number_takes_no_memory(tmp_path):
    network = models.build("simple", 32)
    vast = {**network.state_dict(), "fc1.weight": torch.zeros(1).expand(10**6, 10**6)}
    torch.save({**FACTS, "format": checkpoints.FORMAT, "state": vast, "weights_sha256": ""}, tmp_path / "model.pt")
    with pytest.raises(Problem, match="model.pt: .state.fc1.weight is no plain tensor"):
        checkpoints.load_checkpoint(tmp_path / "model.pt")


def test_weights_that_are_not_finite_are_named(tmp_path):
    state = models.build("simple", 32).state_dict()
    state["fc2.bias"][3] = float("nan")
    with pytest.raises(Problem, match="model.pt: its weights are not all finite .fc2.bias"):
        checkpoints.load_checkpoint(saved(tmp_path / "model.pt", state=state))


def test_a_flipped_byte_is_noticed(tmp_path):
    path = saved(tmp_path / "model.pt")
    content = bytearray(path.read_bytes())
    checkpoint = torch.load(path, weights_only=True)
    values = checkpoint["state"]["fc1.weight"].numpy().tobytes()
    content[bytes(content).index(values) + len(values) // 2] ^= 0x40
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # torch does not notice
    with pytest.raises(Problem, match="the file was damaged"):
        checkpoints.load_checkpoint(path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload(tmp_path / "made"), protocol=2))
    torch.save({"format": 1, "state": Payload(tmp_path / "made")}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(Problem, match=f"{name}: not a whole checkpoint") as caught:
            checkpoints.load_checkpoint(tmp_path / name)
        assert "weights_only" not in str(caught.value)  # torch's message advises to load it all the same
    assert not (tmp_path / "made").exists()


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(Problem, match="none.pt: no such file"):
        checkpoints.load_checkpoint(tmp_path / "none.pt")
    whole = saved(tmp_path / "model.pt").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(Problem, match="cut.pt: not a whole checkpoint"):
            checkpoints.load_checkpoint(tmp_path / "cut.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(Problem, match="other.pt: not a checkpoint that train.py wrote"):
        checkpoints.load_checkpoint(tmp_path / "other.pt")
    with pytest.raises(Problem, match="its weights do not fit simple"):
        checkpoints.load_checkpoint(saved(tmp_path / "model.pt", size=64))
    checkpoint = torch.load(saved(tmp_path / "model.pt"), weights_only=True)
    torch.save({**checkpoint, "format": 99}, tmp_path / "new.pt")
    with pytest.raises(Problem, match="checkpoint format 99, this program reads format 1"):
        checkpoints.load_checkpoint(tmp_path / "new.pt")
