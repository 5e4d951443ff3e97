"""The page in Chromium: the rows of predict.py, nothing sent, and clear errors."""

import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import browsing
import numpy as np
import pytest
from film_files import WINDOW, dicom
from PIL import Image
from predicting import POINTS, bright_graph, doubtful_graph, film_of, table

import predict
from films import phantoms
from graphs import page as site
from metrics import measures

GRAPH, EXAMPLES = site.ROOT / "trained" / "simple.onnx", site.ROOT / "examples" / "films"
pytestmark = [browsing.needed, browsing.runtime]
EXACT = set(predict.COLUMNS) - {"probability", "unfamiliar"}


def saved(page) -> list[dict]:
    """The table as it is downloaded."""
    with page.expect_download() as download:
        page.click("#csv")
    path = Path(download.value.path())
    assert path.read_bytes().startswith(predict.HEADER)
    return table(path)


def predicted(graph: Path, csv_path: Path, *arguments: object) -> list[dict]:
    predict.main([str(graph), *map(str, arguments), "--csv", str(csv_path), "--overwrite", "--provider", "cpu"])
    return table(csv_path)


def compare(found: list[dict], expected: list[dict]) -> None:
    """Rows are those of predict.py: all columns, and probabilities nearly."""
    assert [row["file"] for row in found] == [row["file"] for row in expected]
    for mine, right in zip(found, expected, strict=True):
        assert bool(mine["error"]) == bool(right["error"]), (mine, right)
        if right["error"]:
            continue
        assert abs(float(mine["probability"]) - float(right["probability"])) <= 1e-4, (mine, right)
        if right["unfamiliar"]:
            assert float(mine["unfamiliar"]) == pytest.approx(float(right["unfamiliar"]), rel=1e-3), right
        assert {key: mine[key] for key in EXACT} == {key: right[key] for key in EXACT}


def drawn(count: int, size: int = 160) -> list[np.ndarray]:
    """Drawings of chests, that a network trained on films answers in different ways."""
    return list(phantoms.generate(count, size)[0])


@pytest.fixture(scope="module")
def twenty(tmp_path_factory) -> Path:
    """A folder of twenty films of all kinds, and of what is none."""
    folder = tmp_path_factory.mktemp("twenty") / "films"
    (folder / "inner").mkdir(parents=True)
    chest = [Image.fromarray(pixels) for pixels in drawn(12)]
    deep = np.asarray(chest[3], np.uint16) * 257
    exif = Image.Exif()
    exif[0x112] = 6
    chest[0].save(folder / "a.png")
    chest[1].resize((301, 211)).save(folder / "b wide.png")
    chest[2].rotate(180).save(folder / "c upside down.png")
    Image.fromarray(deep).save(folder / "d 16 bits.png")
    Image.fromarray(deep >> 4).save(folder / "e 12 bits.png")
    Image.merge("RGB", [chest[4], chest[5], chest[6]]).save(folder / "f colours.png")
    chest[5].resize((60, 60)).save(folder / "g tiny.png")
    chest[6].crop((0, 0, 40, 160)).save(folder / "=h, \"odd\".png")  # fmt: skip
    chest[7].quantize(64).save(folder / "i palette.png")
    chest[8].resize((700, 900)).save(folder / "inner" / "j ä.png")
    for path in EXAMPLES.glob("*.jpeg"):
        shutil.copy(path, folder)
    chest[9].resize((400, 300)).save(folder / "k turned.jpeg", exif=exif, quality=95)
    Image.merge("RGB", [chest[9]] * 3).resize((300, 330)).save(folder / "l.jpg", quality=95)
    wide = np.asarray(chest[10].resize((256, 240)), np.uint16) * 16
    (folder / "m.dcm").write_bytes(dicom(wide, **WINDOW))
    (folder / "n").write_bytes(dicom(4095 - wide, PhotometricInterpretation="MONOCHROME1"))
    (folder / "o.dcm").write_bytes(compressed(dicom(wide), "JPEG2000Lossless"))
    (folder / "p.dcm").write_bytes(compressed(dicom(wide), "JPEGLSLossless"))
    (folder / "notes.txt").write_text("no film")
    (folder / "text.png").write_text("no picture")
    (folder / "cut.jpeg").write_bytes((EXAMPLES / "IM-0433-0001.jpeg").read_bytes()[:40_000])
    return folder


def compressed(content: bytes, syntax: str) -> bytes:
    from pydicom import dcmread, uid

    header, stream = dcmread(io.BytesIO(content)), io.BytesIO()
    header.compress(getattr(uid, syntax))
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_a_folder_that_is_dropped_gets_the_rows_of_predict(sites, opened, twenty, tmp_path, monkeypatch):
    monkeypatch.chdir(twenty.parent)
    expected = predicted(GRAPH, tmp_path / "right.csv", twenty.name)
    assert len(expected) == 22 and sum(bool(row["error"]) for row in expected) == 2
    page = opened(sites(GRAPH)[0])
    browsing.drop(page, twenty)
    said = browsing.finished(page, 22)
    found = saved(page)
    compare(found, expected)
    for name in ("cut.jpeg", "text.png"):
        (row,) = [row for row in found if row["file"].endswith(name)]
        assert row["error"] and row["probability"] == row["decision"] == row["refer"] == ""
    assert page.inner_text("#passed") == "passed over in folders: 1 .txt"
    assert any("c upside down" in row["file"] for row in found if "upside down" in row["flags"])
    well, ill = ([row["decision"] for row in expected].count(name) for name in ("NORMAL", "PNEUMONIA"))
    assert said.startswith(f"{well} NORMAL, {ill} PNEUMONIA, ")
    assert min(well, ill) > 1, "films of one class would show little"
    page.click("#rows button[title$='cut.jpeg']")
    assert page.locator("#detail > :visible, #back").evaluate_all("parts => parts.map(({ id }) => id)") == [
        "film-name", "verdict", "back"], "of a film that could not be read there is nothing else"  # fmt: skip
    page.check("#only")
    wanted = [row["file"] for row in expected if row["refer"] == "yes" or row["error"]]
    assert page.locator("#rows tr:visible button").all_inner_texts() == wanted and 2 < len(wanted) < 20
    page.focus("#rows tr:visible button >> nth=0")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#film-name") == wanted[1], "the arrow keys pass over rows that are hidden"
    page.click("#clear")
    page.set_input_files("#files", twenty / "text.png")
    assert browsing.finished(page, 1).startswith("0 NORMAL, 0 PNEUMONIA; 1 error, 0 warnings; ")
    assert not page.is_checked("#only")


def test_two_drops_at_once_and_a_film_of_50_megapixels(sites, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small, big = tmp_path / "small", tmp_path / "big"
    for folder in (small, big):
        folder.mkdir()
    pixels = drawn(3)
    for i, chest in enumerate(pixels):
        Image.fromarray(chest).save(small / f"{i}.png")
    Image.fromarray(pixels[0]).resize((7200, 7000)).save(big / "huge.png", compress_level=1)
    expected = predicted(GRAPH, tmp_path / "right.csv", "big", "small")
    page = opened(sites(GRAPH)[0])
    browsing.drop(page, big)
    browsing.drop(page, small)
    browsing.finished(page, 4)
    compare(saved(page), expected)
    page.click("#clear")
    assert page.locator("#rows tr").count() == 0 and page.is_hidden("#results")
    browsing.drop(page, small)
    browsing.finished(page, 3)
    compare(saved(page), expected[1:])


def test_operating_points_and_what_they_mean(sites, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = doubtful_graph(tmp_path / "doubtful.onnx")
    films = [film_of(Path(f"{i:02}.png"), probability, flags, unfamiliar) for i, (probability, flags, unfamiliar) in
             enumerate([(0.55, 0, 0.5), (0.62, 16, 0.5), (0.66, 0, 0.25), (0.69, 8, 1.5), (0.75, 512 | 16, 1.25),
                        (0.81, 0, 0), (0.9, 512, 2), (0.97, 16 | 8, 0.75)])]  # fmt: skip
    page = opened(sites(graph)[0])
    page.set_input_files("#files", films)
    browsing.finished(page, len(films))
    names = page.eval_on_selector_all("#point option", "options => options.map(option => option.value)")
    assert names[0] == "validation" and sorted(names) == sorted(POINTS)
    notes = set()
    for name in names:
        page.select_option("#point", name)
        way = {"sensitivity 95 %": ["--sensitivity", "0.95"], "sensitivity 99 %": ["--sensitivity", "0.99"]}
        expected = predicted(
            graph, tmp_path / "right.csv", *films, *way.get(name, ["--threshold", POINTS[name]["threshold"]])
        )
        compare(saved(page), expected)
        notes |= {row["refer"] + row["decision"] for row in expected}
        model = predict.open_model(graph, "cpu")
        assert page.inner_text("#said") == model.points[name][1] and page.inner_text("#promise") == model.promise
    assert notes == {"yesNORMAL", "noNORMAL", "yesPNEUMONIA", "noPNEUMONIA"}
    page.select_option("#point", "sensitivity 95 %")
    rates = [POINTS["sensitivity 95 %"][key] for key in ("sensitivity", "specificity")]
    for percent, words in (("10", ("52", "more than 99")), ("0", ("0", "100")), ("62.5", ("94", "95")),
                           ("0.01", ("less than 1", "more than 99")), ("100", ("100", "0"))):  # fmt: skip
        page.fill("#prevalence", percent)
        terms, lines = (page.locator(f"#predictive {part}").all_inner_texts() for part in ("dt", "dd"))
        right, low = ([measures.at_prevalence(*(rate[end] for rate in rates), float(percent) / 100)[key]
                       for key in ("ppv", "npv")] for end in ("value", "low"))  # fmt: skip
        assert terms == [f"PPV {right[0]:.3f}", f"NPV {right[1]:.3f}"]
        for line, called, word in zip(lines, ("PNEUMONIA", "NORMAL"), words, strict=True):
            assert line.startswith(f"of 100 films called {called}, {word} are; at worst ")
        worst = [re.sub(r".* at worst ", "", line) for line in lines]
        if percent == "10":
            assert worst == [f"{100 * share:.0f}" for share in low]
    page.fill("#prevalence", "101")
    assert page.inner_text("#typed") == "A number from 0 to 100, please." and page.is_hidden("#rates")
    assert page.inner_text("header") == (
        "Not for clinical use. tiny has learned from films: x. A smoke run: its answers mean nothing."
    )


def test_a_graph_that_contradicts_itself_or_fails_gives_no_answer(sites, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = doubtful_graph(tmp_path / "wrong.onnx", refers="And")
    films = [film_of(Path("a.png"), 0.55), film_of(Path("b.png"), 0.75), film_of(Path("c.png"), 0.9, 8), Path("d.png"),
             *(film_of(Path(f"e{i}.png"), 0.55) for i in range(6))]  # fmt: skip
    Image.fromarray(np.zeros((1, 1), np.uint8)).save("d.png")  # too narrow for this graph
    expected = predicted(graph, tmp_path / "right.csv", *films)
    page = opened(sites(graph)[0])
    page.set_input_files("#files", films)
    browsing.finished(page, len(films))
    failed, right = [[row["error"] for row in rows] for rows in (saved(page), expected)]
    assert all(errors.pop(3).startswith("the graph failed: ") for errors in (failed, right))
    assert failed == right and any("refer is" in error for error in failed)
    assert failed[3:] == [""] * 6, "after a failure another worker goes on"


def test_a_graph_of_an_earlier_version_and_its_heat_map(sites, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph, chest = bright_graph(tmp_path / "early.onnx", heatmap=True), drawn(2)
    Image.fromarray(255 - chest[0]).save("a negative.png")
    Image.fromarray(chest[1][:, :40]).save("b part.png")
    Image.fromarray(chest[1][:12, :12]).save("c tiny.png")
    Image.merge("RGB", [Image.fromarray(values) for values in (chest[0], 255 - chest[0], chest[1])]).save(
        "d colours.png"
    )
    Image.fromarray(np.full((50, 60), 9, np.uint8)).save("e constant.png")
    Image.fromarray(np.asarray(chest[1], np.uint16) * 16).save("f 12 bits.png")
    films = sorted(Path(".").glob("*.png"))
    expected = predicted(graph, tmp_path / "right.csv", *films)
    assert all(row["warning"] for row in expected)
    page = opened(sites(graph)[0])
    page.set_input_files("#files", films)
    browsing.finished(page, len(films))
    compare(saved(page), expected)
    # The heat map of this graph is the film over 200: its colours, as strong as predict.py draws them.
    page.wait_for_selector("#colours:not([hidden])")
    film = np.asarray(Image.open("a negative.png"))
    level = np.clip(predict.over_film(film / np.float32(200), [160, 160], "stretch") / max((film / 200).max(), 1), 0, 1)
    weight = (0.6 * np.minimum(level * 2, 1))[..., None]
    right = film[..., None] * (1 - weight) + predict.viridis(level) * weight
    assert np.abs(shown(page) - right).max() <= 1
    page.evaluate("document.querySelector('#strength').value = 0")
    page.dispatch_event("#strength", "input")
    assert (shown(page) == film[..., None]).all()


def shown(page) -> np.ndarray:
    """(H, W, 3) of the film as it is drawn."""
    width, height, pixels = page.evaluate(
        "() => { const film = document.getElementById('film'), {width, height} = film;"
        "return [width, height, [...film.getContext('2d').getImageData(0, 0, width, height).data]] }"
    )
    return np.array(pixels, float).reshape(height, width, 4)[..., :3]


def test_the_occlusion_map_is_that_of_predict(sites, opened, tmp_path):
    page = opened(sites(GRAPH)[0])
    films = [tmp_path / "wide.png", tmp_path / "small.png"]
    for path, size in zip(films, ((431, 300), (150, 203)), strict=True):
        Image.fromarray(drawn(1)[0]).resize(size).save(path)
    found = page.evaluate(
        """async (films) => {
          const [{ Pool }, { graph }] = [await import('/pool.js'), await (await fetch('/site.json')).json()]
          const pool = new Pool({ graph: graph.file, sha256: graph.sha256, provider: 'wasm' }, 1)
          await pool.open()
          const ask = (bytes) => pool.ask('occlude', { file: new Blob([new Uint8Array(bytes)]), name: 'x' })
          const maps = await Promise.all(films.map(ask))
          pool.stop()
          return maps.map(({ heat }) => [...heat])
        }""",
        [list(path.read_bytes()) for path in films],
    )
    model = predict.open_model(GRAPH, "cpu")
    expected = [predict.occlusion(model, np.asarray(Image.open(path))) for path in films]
    for heat, right in zip(found, expected, strict=True):
        assert right.max() - right.min() > 0.5
        assert np.abs(np.reshape(heat, right.shape) - right).max() < 1e-3 * np.abs(right).max()
    page.set_input_files("#files", films[0])
    page.click("#explain")
    page.wait_for_selector("#colours:not([hidden])")
    assert page.inner_text("#most") == f"{max(expected[0].max(), 1):.3g}"


def test_films_are_resized_as_pillow_does_and_maps_laid_over_them(sites, opened):
    page, rng = opened(sites(GRAPH)[0]), np.random.default_rng(0)
    for height, width, rows, columns in ((300, 407, 23, 31), (61, 64, 60, 62), (5, 7, 50, 71), (40, 40, 40, 40)):
        grey = rng.integers(0, 256, (height, width), np.uint8)
        for name, method in (("BILINEAR", Image.Resampling.BILINEAR), ("BICUBIC", Image.Resampling.BICUBIC)):
            found = page.evaluate(
                """async ([values, ...sizes]) => {
                  const { resized, ...filters } = await import('/resizing.js')
                  const filter = filters[sizes.pop()]
                  return [...resized(Uint8Array.from(values), ...sizes, filter)]
                }""", [grey.ravel().tolist(), height, width, rows, columns, name])  # fmt: skip
            right = np.asarray(Image.fromarray(grey).resize((columns, rows), method))
            assert (np.reshape(found, (rows, columns)) == right).all()
    heat = rng.normal(size=(7, 7)).astype(np.float32)
    for fit in ("stretch", "pad", "crop"):
        found = page.evaluate(
            """async ([values, fit]) => {
              const { overFilm } = await import('/drawing.js')
              return [...overFilm({ heat: Float32Array.from(values), rows: 7, columns: 7 }, 60, 91, fit)]
            }""", [heat.ravel().tolist(), fit])  # fmt: skip
        assert np.abs(np.reshape(found, (60, 91)) - predict.over_film(heat, [91, 60], fit)).max() < 1e-5


def test_numbers_and_texts_are_written_as_python_writes_them(sites, opened):
    page, rng = opened(sites(GRAPH)[0]), np.random.default_rng(1)
    numbers = np.concatenate([rng.random(300), rng.random(300) * 1e-5, np.arange(65) / 64, 10.0 ** np.arange(-9, 9),
                              rng.normal(size=100) * 1e9]).astype(np.float32)  # fmt: skip
    found = page.evaluate(
        """async (values) => {
          const { fixed, numberText, shortest } = await import('/numbers.js')
          const texts = (value) => [numberText(shortest(value)), numberText(value), fixed(value, 4), fixed(value, 0)]
          return values.map(texts)
        }""",
        numbers.astype(float).tolist(),
    )
    for value, texts in zip(numbers, found, strict=True):
        assert texts == [str(float(str(value))), str(float(value)), f"{value:.4f}", f"{value:.0f}"]
    names = ["a.png", "=1+1.png", "'=x.png", "-2.png", "line\nend\t.png", "\u200bzero.png", "x\x07.png", "\ue000.png",
             "\U0001f9ff.png", "semi;colon, comma \"quoted\".png", "＝full.png", " space.png", "NaN.png",
             "soft\xadhyphen\x85.png"]  # fmt: skip
    found = page.evaluate(
        """async (names) => {
          const { cell } = await import('/answers.js')
          return names.map((name) => cell(name, 'file'))
        }""",
        names,
    )
    assert found == [predict.cell(name) for name in names]
    for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 5000):
        content = rng.integers(0, 256, length, np.uint8).tobytes()
        digest = page.evaluate(
            "async (bytes) => (await import('/sha256.js')).sha256(Uint8Array.from(bytes))", list(content)
        )
        assert digest == hashlib.sha256(content).hexdigest()


def test_a_damaged_or_missing_graph_is_said(sites, opened, tmp_path):
    _, whole = sites(GRAPH)
    damaged = tmp_path / "damaged"
    shutil.copytree(whole, damaged)
    model = damaged / site.GRAPH
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    listed = damaged / "site.json"
    facts = json.loads(listed.read_text())
    with browsing.served(damaged) as server:
        address = browsing.address(server)
        for change, said in (
            (lambda: model.write_bytes(content), "it is damaged or was changed. Copy the whole folder again"),
            (lambda: model.write_bytes(b"no graph"), "it is damaged or was changed. Copy the whole folder again"),
            (lambda: listed.write_text(json.dumps(facts | {"graph": facts["graph"] | {
                "sha256": hashlib.sha256(b"no graph").hexdigest()}})), "model/graph.onnx cannot be used: "),
            (model.unlink, "model/graph.onnx is missing (404): copy the whole folder again"),
            (listed.unlink, "site.json is missing (404): copy the whole folder again"),
        ):  # fmt: skip
            change()
            page = opened(address, complains=True)
            line = page.inner_text("#trouble")
            assert line.startswith("error: ") and said in line and "\n" not in line
            assert page.is_hidden("#drop")


def test_nothing_leaves_even_if_it_wanted_to(sites, opened, tmp_path):
    """The page's policy binds the workers too, which a policy in a <meta> usually does not."""
    address, _ = sites(GRAPH)
    page = opened(address)
    attempt = "address => fetch(address, {mode: 'no-cors'}).then(() => 'sent', error => error.name)"
    with browsing.served(tmp_path) as elsewhere:
        other = browsing.address(elsewhere)
        assert page.evaluate(attempt, other) == "TypeError"
        assert [worker.evaluate(attempt, other) for worker in page.workers] == ["TypeError"]
        assert page.evaluate(attempt, address) == "sent"
        assert elsewhere.asked == []
    assert any("Content Security Policy" in line for line in page.said)
    page.said.clear()


def test_a_film_to_try_and_its_reasons(sites, opened):
    page = opened(sites(GRAPH)[0])
    page.click("#examples button:has-text('on its side')")
    browsing.finished(page, 1)
    assert "refer: turned?" in page.inner_text("#rows")
    assert "a person should read this film" in page.inner_text("#why") and "lie on its side" in page.inner_text("#why")
