"""Procedurally drawn chest radiographs ("phantoms"), so that the project runs without any data.

Every film is a sum of simple shapes in units of X-ray attenuation, turned into grey levels as a film would
do.  A lung is "air" that removes attenuation from the chest; pneumonia fills that air with fluid.  Borders
of heart and diaphragm therefore vanish beside an opacity (the silhouette sign) without being told to.

Coordinates: x and y run from -1 to 1 over the image, x to the right (the patient's left), y downwards.
The drawings show the right organs in the right places and nothing more: they are no medical evidence.
"""

from collections import Counter
from types import SimpleNamespace

import numpy as np

VERSION = 1  # part of the cache name: raise it when a pixel changes

# One entry per patient: N normal, B bacterial, V viral (6 : 6 : 3).  A fixed cycle keeps both classes in
# every prefix; all else about a patient is drawn without looking at this letter.
CYCLE = "NBVNBBNBNVBNBVN"
IMAGES_PER_PATIENT = ((1, 2, 3, 4), (0.82, 0.11, 0.05, 0.02))  # how many films, how often
# One random stream for each purpose, so that no draw for one moves another.
PATIENT, EXPOSURE, DISEASE, COUNT = 0, 1, 2, 3

# Uniform ranges of what all films of one patient share (lengths in half image widths).
ANATOMY = {
    "chest": (0.60, 0.71),  # half width of the rib cage
    "wall": (0.07, 0.19),  # muscle and fat lateral to the ribs
    "girth": (0.88, 1.12),  # attenuation of the trunk
    "heart_left": (0.20, 0.34),  # how far the heart widens the mediastinum to the patient's left
    "heart_right": (0.06, 0.14),
    "mediastinum": (0.10, 0.15),  # half width above the heart
    "dome": (0.13, 0.21),  # height of the diaphragm domes
    "dome_left": (0.02, 0.08),  # how much lower the left dome stands
    "rib_gap": (0.135, 0.165),
    "rib_shift": (0.0, 0.15),
    "rib_bone": (0.18, 0.32),
    "spine_bone": (0.25, 0.50),
    "clavicle": (-0.54, -0.44),  # height of their medial ends
    "clavicle_tilt": (-0.08, 0.06),
    "vessels": (0.16, 0.50),  # prominence of the pulmonary vessels
    "stomach": (-0.6, 0.7),  # gas in the stomach; none when negative
}

# Uniform ranges of what changes from film to film.
FILM = {
    "shift_x": (-0.05, 0.05),
    "shift_y": (-0.05, 0.05),
    "scale": (1.02, 1.16),
    "rotation": (-0.06, 0.06),  # radians
    "inspiration": (0.44, 0.60),  # height of the lateral diaphragm
    "arm": (-1.0, 1.25),  # radians below the horizontal
    "chin": (-1.6, -0.90),  # height of the chin, mostly above the film
    "haze": (-0.15, 0.20),  # harmless veil over the lungs; none when negative
    "haze_slope": (-0.8, 0.8),
    "dose": (0.90, 1.25),  # factor on attenuation: high is a pale, under-exposed film
    "gamma": (0.90, 1.25),
    "fog": (0.0, 0.05),  # grey level of the darkest film
    "white": (0.90, 1.02),
    "noise": (0.012, 0.040),
    "blur": (0.3, 1.2),  # width of focus and motion blur, in 1/224 of the image
    "collimator": (-3.0, 1.0),  # width of black borders; none when negative
    "marker": (-0.6, 1.0),  # side marker; none when negative
}

# Where a lobe projects: side (-1 right, 1 left), centre x, centre y, half width, half height.
LOBES = (
    (-1, 0.36, -0.36, 0.26, 0.22),  # right upper
    (-1, 0.32, 0.12, 0.25, 0.16),  # right middle
    (-1, 0.44, 0.28, 0.25, 0.23),  # right lower
    (1, 0.38, -0.26, 0.25, 0.28),  # left upper
    (1, 0.47, 0.24, 0.24, 0.24),  # left lower
)
LOBAR_FILL = (0.38, 0.92)  # part of the air that is replaced: subtle to plain
PATCHY_FILL = (0.38, 0.85)
LETTER_R = np.array([[int(c) for c in row] for row in ("1110", "1001", "1110", "1010", "1001")], np.float32)


def _draw(rng: np.random.Generator, ranges: dict) -> SimpleNamespace:
    """One uniform draw from each range."""
    return SimpleNamespace(**{name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()})


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean length; much faster than np.hypot, whose care for overflow is not needed here."""
    return np.sqrt(x * x + y * y)


def _step(d: np.ndarray, edge: float) -> np.ndarray:
    """Soft step from 0 to 1 over a width `edge` around d = 0."""
    t = np.clip(d * (1 / edge) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _bulge(d: np.ndarray, depth: float) -> np.ndarray:
    """Thickness of a rounded body at depth `d` inside its outline: 0 outside, 1 from `depth` inwards."""
    t = np.clip(d * (1 / depth), 0, 1)
    return t * (2 - t)


def _segment(x: np.ndarray, y: np.ndarray, start: tuple, end: tuple) -> np.ndarray:
    """Distance of each pixel from a line segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) * (1 / (dx * dx + dy * dy)), 0, 1)
    return _length(x - start[0] - t * dx, y - start[1] - t * dy)


def _ellipse(x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    """1 at the centre of an ellipse, 0 on its outline, negative outside."""
    return 1 - _length((x - cx) * (1 / rx), (y - cy) * (1 / ry))


def _noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise (size, size) of about unit variance: a coarse grid, interpolated."""
    position = np.linspace(0, cells - 1e-3, size)
    t = position % 1
    t = t * t * (3 - 2 * t)
    weights = np.zeros((size, cells + 1), np.float32)
    rows, left = np.arange(size), position.astype(int)
    weights[rows, left], weights[rows, left + 1] = 1 - t, t
    coarse = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return 1.35 * (weights @ coarse @ weights.T)


def _sample(grid: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up of `grid` at positions in grid cells; periodic, so its sides must be powers of two."""
    rows, columns = grid.shape
    i, j = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    a, b = u - i, v - j
    upper, lower = (i & (rows - 1)) * columns, ((i + 1) & (rows - 1)) * columns
    left, right = j & (columns - 1), (j + 1) & (columns - 1)
    flat = grid.ravel()
    top = flat.take(upper + left) * (1 - b) + flat.take(upper + right) * b
    return top * (1 - a) + (flat.take(lower + left) * (1 - b) + flat.take(lower + right) * b) * a


def _blur(image: np.ndarray, width: float) -> np.ndarray:
    """Two passes of a 3-tap filter along each axis; `width` (pixels) sets the weight of the neighbours."""
    side = np.float32(min(width, 2.0) / 6)
    for _ in range(2):
        padded = np.pad(image, 1, mode="edge")
        image = padded[1:-1] * (1 - 2 * side) + (padded[:-2] + padded[2:]) * side
        image = image[:, 1:-1] * (1 - 2 * side) + (image[:, :-2] + image[:, 2:]) * side
    return image


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates of the pixel centres: x (1, size) and y (size, 1)."""
    axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    return axis[None, :], axis[:, None]


def _pose(film: SimpleNamespace, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Body coordinates of every pixel, each float32 (size, size), under this film's framing."""
    x, y = _grid(size)
    x, y = x - film.shift_x, y - film.shift_y
    c, s = float(np.cos(film.rotation)) / film.scale, float(np.sin(film.rotation)) / film.scale
    return c * x + s * y, c * y - s * x


def _cage(y: np.ndarray, body: SimpleNamespace) -> np.ndarray:
    """Half width of the rib cage at each height: a dome, then nearly straight."""
    return body.chest * np.sqrt(np.clip(1 - (np.minimum(y - 0.38, 0) * (1 / 1.09)) ** 2, 0.02, 1))


def _trunk(x: np.ndarray, y: np.ndarray, body: SimpleNamespace, film: SimpleNamespace) -> np.ndarray:
    """Soft tissue of chest, neck, chin and arms; attenuation."""
    side = np.abs(x)
    half = body.chest + body.wall
    width = half + 0.05 * y + 0.12 * _step(-0.42 - y, 0.3)  # shoulders
    torso = np.minimum(width - side, (y + 1.12 - 0.5 * side) * 0.9)
    neck = np.where(y < -0.4, 0.27 - side, -1)
    shoulder = (half + 0.02, -0.52)
    elbow = (shoulder[0] + 0.8 * np.cos(film.arm), shoulder[1] + 0.8 * np.sin(film.arm))
    arm = _segment(side, y, shoulder, elbow)
    soft = np.maximum(_bulge(torso, 0.34), 0.75 * _bulge(neck, 0.2))
    soft = np.maximum(soft, 0.6 * _bulge(0.20 - arm, 0.2))
    soft += 0.5 * _bulge(_ellipse(x, y, 0, film.chin - 0.1, 0.34, 0.26), 0.5)
    head = _length(side - shoulder[0], y - shoulder[1])
    humerus = _step(0.045 - arm, 0.03) + 0.6 * _step(0.085 - head, 0.04)
    return body.girth * soft + 0.28 * humerus


def _heart(x: np.ndarray, y: np.ndarray, body: SimpleNamespace) -> np.ndarray:
    """Mediastinum, aortic knob and heart: 0 to 1."""
    down = np.clip((y + 0.22) * 1.7, 0, 1)
    down = down * (1.5 - 0.5 * down) - 5 * np.maximum(y - 0.22, 0) ** 2  # rounded off at the apex
    knob = 0.05 * np.clip(1 - ((y + 0.30) * 8) ** 2, 0, 1)
    left = body.mediastinum + knob + body.heart_left * down
    right = body.mediastinum - 0.02 + body.heart_right * np.clip(1 - ((y - 0.24) * 2.6) ** 2, 0, 1)
    return _step(np.where(x > 0, left - x, right + x), 0.045)


def _dome(x: np.ndarray, body: SimpleNamespace, film: SimpleNamespace) -> np.ndarray:
    """Height of the diaphragm at each x: two domes, the right one higher."""
    arch = 1 - ((np.abs(x) - 0.27) * (1 / 0.42)) ** 2
    return film.inspiration - body.dome * arch + body.dome_left * _step(x, 0.2)


def _vessels(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Branching hilar and vascular markings: ridges of noise that is stretched away from the hilum."""
    side = np.abs(x) - 0.15
    r = _length(side, y)
    angle = np.arctan2(y, side) + 4 * (x > 0)  # another part of the noise for the other lung
    grid = rng.standard_normal((64, 16), dtype=np.float32)
    fine = _sample(grid, 5.5 * angle + np.sin(8 * r + 3 * angle), 6 * r)
    ridge = 1 / (1 + (fine * (1 / 0.20)) ** 2)
    return ridge * np.exp(-2.4 * r) + 0.8 * np.exp(-((r * (1 / 0.13)) ** 2))


def _ribs(x: np.ndarray, y: np.ndarray, body: SimpleNamespace) -> np.ndarray:
    """Posterior and fainter anterior ribs; relative to `rib_bone`."""
    s = np.minimum(np.abs(x) / _cage(y, body), 1.3)
    fall = y - 0.10 * y * y - body.rib_shift  # lower ribs lie further apart

    def bands(offset: np.ndarray, half: float) -> np.ndarray:
        phase = (fall - offset) * (1 / body.rib_gap)
        distance = np.abs(phase - np.round(phase))
        return _step(half - distance, 0.12) * (0.55 + 2.0 * distance)  # the cortex is denser than the marrow

    cubed = s * s * s
    posterior = bands(0.44 * cubed - 0.15 * s, 0.20) * (1 + 1.2 * cubed * cubed)
    anterior = bands(0.29 + 0.42 * (1 - s), 0.17) * _step(s - 0.45, 0.3)
    inside = _step(1.02 - s, 0.06) * _step(y + 0.72, 0.1) * _step(0.75 - y, 0.5)
    return (posterior + 0.55 * anterior) * inside


def _bones(x: np.ndarray, y: np.ndarray, body: SimpleNamespace) -> np.ndarray:
    """Ribs, vertebrae, clavicles and scapulae; attenuation."""
    side = np.abs(x)
    wave = np.cos(y * (2 * np.pi / (1.15 * body.rib_gap)))
    spine = _step(0.085 + 0.012 * wave - side, 0.03) * (0.8 + 0.2 * wave)
    spine += 0.25 * _step(0.02 - side, 0.02) * _step(wave, 0.8)  # spinous processes
    inner, middle = (0.09, body.clavicle), (0.30, body.clavicle - 0.12)
    outer = (0.60, body.clavicle - 0.20 + body.clavicle_tilt)
    clavicle = np.minimum(_segment(side, y, inner, middle), _segment(side, y, middle, outer))
    scapula = _segment(side, y, (body.chest + 0.02, -0.5), (body.chest + 0.06, -0.1))
    bone = body.spine_bone * spine + 0.32 * _step(0.027 - clavicle, 0.02)
    return bone + body.rib_bone * _ribs(x, y, body) + 0.10 * _step(0.04 - scapula, 0.04)


def _lungs(x: np.ndarray, y: np.ndarray, body: SimpleNamespace, film: SimpleNamespace) -> np.ndarray:
    """Share of air in the beam, 0 to 1, before any disease and without the heart."""
    side = np.abs(x)
    lateral = _step(_cage(y, body) - 0.03 - side, 0.07)
    medial = _step(side - 0.07, 0.08)
    above = _step(_dome(x, body, film) - y, 0.035)
    apex = _step(y + 0.66 - 0.5 * (side - 0.22) ** 2, 0.10)
    veil = max(film.haze, 0) * (1 + film.haze_slope * y)
    return lateral * medial * above * apex * (1 - veil)


def _lobar(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bacterial pneumonia: one consolidation in one lobe; part of the air replaced, 0 to 1."""
    side, cx, cy, rx, ry = LOBES[rng.integers(len(LOBES))]
    cx, cy = cx + rng.uniform(-0.06, 0.06), cy + rng.uniform(-0.06, 0.06)
    grow, fill, soft = rng.uniform(1.0, 1.6), rng.uniform(*LOBAR_FILL), rng.uniform(0.35, 0.9)
    d = _ellipse(x, y, side * cx, cy, grow * rx, grow * ry) + 0.22 * _noise(rng, 9, len(x))
    return fill * _step(d, soft) * (side * x > 0) * np.clip(0.92 + 0.10 * _noise(rng, 24, len(x)), 0, 1.2)


def _patchy(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Viral pneumonia: patches and streaks in both lungs; part of the air replaced, 0 to 1."""
    fill = rng.uniform(*PATCHY_FILL)
    clear = np.ones_like(x)
    for k in range(rng.integers(5, 10)):
        side = 1 if k % 2 else -1
        cx, cy = side * rng.uniform(0.18, 0.55), rng.uniform(-0.4, 0.4)
        rx, ry = rng.uniform(0.12, 0.26, 2)
        clear *= 1 - rng.uniform(0.5, 1) * _step(_ellipse(x, y, cx, cy, rx, ry), 1.0)
    streaks = np.clip(0.8 + 0.3 * (_noise(rng, 37, len(x)) + _noise(rng, 17, len(x))), 0.1, 1.4)
    return np.clip(fill * (1 - clear) * streaks, 0, 0.95)


def _expose(attenuation: np.ndarray, film: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Grey levels 0 to 1 of the film behind the given attenuation, with quantum noise."""
    size = len(attenuation)
    beam = np.exp(-film.dose * _blur(attenuation, film.blur * size / 224))
    noise = _blur(rng.standard_normal((size, size), dtype=np.float32), 1.0)
    beam = np.clip(beam + film.noise * np.sqrt(beam) * noise, 0, 1)
    return film.fog + (film.white - film.fog) * (1 - beam) ** np.float32(film.gamma)


def _frame(grey: np.ndarray, film: SimpleNamespace) -> None:
    """Black collimator borders and the lead side marker, drawn into `grey`."""
    size = len(grey)
    x, y = _grid(size)
    if film.collimator > 0:
        tilt = 0.5 * film.rotation
        inside = np.minimum(1 - np.abs(x + tilt * y), 1 - np.abs(y - tilt * x)) - 0.1 * film.collimator
        grey *= _step(inside, 0.02)
    if film.marker > 0:
        letter = np.kron(LETTER_R, np.ones((max(size // 110, 1),) * 2, np.float32))
        top, left = int((0.03 + 0.35 * film.marker) * size), int((0.03 + 0.05 * film.marker) * size)
        box = grey[top : top + letter.shape[0], left : left + letter.shape[1]]
        np.maximum(box, 0.92 * letter, out=box)


def render(seed: int, patient: int, image: int, kind: str, size: int) -> np.ndarray:
    """One film, uint8 (size, size).  `kind` (N, B or V) decides about the opacity and nothing else."""
    anatomy_rng = np.random.default_rng([seed, patient, 0, PATIENT])
    film_rng = np.random.default_rng([seed, patient, image, EXPOSURE])
    disease_rng = np.random.default_rng([seed, patient, image, DISEASE])
    body, film = _draw(anatomy_rng, ANATOMY), _draw(film_rng, FILM)
    x, y = _pose(film, size)
    heart = _heart(x, y, body)
    air = _lungs(x, y, body, film) * (1 - 0.88 * heart)
    if kind != "N":
        air *= 1 - (_lobar if kind == "B" else _patchy)(x, y, disease_rng)
    if body.stomach > 0:
        air += 0.6 * body.stomach * _step(_ellipse(x, y, 0.33, film.inspiration + 0.16, 0.16, 0.09), 0.5)
    trachea = _step(0.035 - np.abs(x), 0.03) * _step(-0.25 - y, 0.2)
    below = _step(y - _dome(x, body, film), 0.035) * _step(body.chest + 0.04 - np.abs(x), 0.2)
    attenuation = _trunk(x, y, body, film) * (1 - 0.72 * air - 0.12 * trachea)
    attenuation += 0.12 * heart * _step(0.6 - y, 0.3) + 0.30 * below + _bones(x, y, body)
    attenuation += body.vessels * _vessels(x, y, anatomy_rng) * air
    attenuation += 0.03 * _noise(film_rng, 6, size) * np.minimum(attenuation, 1)  # clothes, folds, fat
    grey = _expose(attenuation, film, film_rng)
    _frame(grey, film)
    return np.clip(grey * 255 + 0.5, 0, 255).astype(np.uint8)


def _name(kind: str, patient: int, image: int, serial: int, second: bool) -> str:
    """File name in the scheme of the real data set; `second` picks the second series of normals."""
    if kind == "N":
        return f"NORMAL/{'NORMAL2-' if second else ''}IM-{patient:04d}-{image + 1:04d}.png"
    return f"PNEUMONIA/person{patient}_{'bacteria' if kind == 'B' else 'virus'}_{serial}.png"


def roster(count: int, seed: int) -> list[tuple[int, int, str, str]]:
    """The first `count` films as (patient, image, kind, file name)."""
    found, patients, films = [], Counter(), Counter()
    for patient in range(count):  # never too few: each has at least one film
        kind = CYCLE[patient % len(CYCLE)]
        rng = np.random.default_rng([seed, patient, 0, COUNT])
        images, second = rng.choice(IMAGES_PER_PATIENT[0], p=IMAGES_PER_PATIENT[1]), rng.random() < 0.5
        series = (kind, second and kind == "N")
        patients[series] += 1
        for image in range(images):
            films[kind] += 1
            found.append((patient, image, kind, _name(kind, patients[series], image, films[kind], second)))
    return found[:count]


def generate(count: int = 600, size: int = 224, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Draw `count` phantoms.

    Returns images, uint8 (count, size, size); labels, int64 (count,), 0 normal and 1 pneumonia; and file
    names in the scheme of the real data set.  A film depends on the seed, its place and the size alone, so
    a shorter run gives the beginning of a longer one.
    """
    films = roster(count, seed)
    images = np.empty((count, size, size), np.uint8)
    for k, (patient, image, kind, _) in enumerate(films):
        images[k] = render(seed, patient, image, kind, size)
    labels = np.array([kind != "N" for _, _, kind, _ in films], np.int64).reshape(count)
    return images, labels, [name for *_, name in films]
