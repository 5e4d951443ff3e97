"""How much films are varied in training: the bounds that recipes give."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Augment:
    """Bounds of the uniform distributions that random changes of an image are drawn from."""

    shift: float = 0.06  # fraction of the side, to either side
    tightest: float = 0.9  # the part of the film that is seen: its side, as a fraction of the film's ...
    widest: float = 1.1  # ... and of the other end; it may lie anywhere inside the film, or the film inside it
    aspect: float = 1.0  # factor: the part seen is up to so much wider or narrower than the film's own shape
    rotation: float = 7.0  # degrees, either way
    unmoved: float = 0.0  # share of images that none of this moves: they alone are not resampled, which softens
    brightness: float = 0.10  # of the range from black to white, either way
    contrast: float = 0.15  # fraction, about the image's own mean, either way
    curve: float = 0.0  # middle greys lighter or darker by up to a quarter of this: x + curve x (1 - x)
    blur: float = 0.0  # up to this share of the fine detail is taken away ...
    sharpen: float = 0.0  # ... or added
    border: float = 0.0  # each side may be covered up to this fraction of the film
    reshaped: float = 0.0  # share of the films of each class that are cut toward the shape of the other one
    frames: float = 0.0  # share of films whose middle is shown in the frame of another film, of any class
    spectra: float = 0.0  # share of films that take on part of another film's amplitude spectrum
    flip: bool = False  # left-right with probability 1/2: it mirrors the heart, so it is off


# Framing, sharpness, tone, shape and frame tell the classes apart in the public training films and need not elsewhere,
# so the recipes vary them more than films do: docs/quality.md says what each is worth.
ELSEWHERE = Augment(
    shift=0.03,
    tightest=0.6,
    widest=1.25,
    aspect=1.4,
    unmoved=0.3,
    brightness=0.15,
    contrast=0.3,
    curve=0.7,
    blur=0.5,  # less than is added: resampling has softened the image already
    sharpen=2.0,
    reshaped=0.5,
    frames=0.5,
)


NO_AUGMENT = Augment(shift=0, tightest=1, widest=1, rotation=0, brightness=0, contrast=0)
