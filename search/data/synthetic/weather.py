"""Light and camera of a generated scene: sky, haze, textures, lens and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ....models.images import RGBImage
from ..labels import LabelMap, TrainId
from .canvas import Canvas, Colour

Field = npt.NDArray[np.float32]

# Texture of each class: (coarse, fine) amplitude relative to its brightness.
_TEXTURE: dict[TrainId, tuple[float, float]] = {
    TrainId.ROAD: (0.07, 0.05),
    TrainId.SIDEWALK: (0.07, 0.06),
    TrainId.BUILDING: (0.08, 0.05),
    TrainId.WALL: (0.08, 0.06),
    TrainId.FENCE: (0.05, 0.05),
    TrainId.VEGETATION: (0.26, 0.22),
    TrainId.TERRAIN: (0.18, 0.15),
    TrainId.SKY: (0.04, 0.0),
    TrainId.PERSON: (0.12, 0.08),
    TrainId.RIDER: (0.12, 0.08),
}


@dataclass(frozen=True)
class Weather:
    """Light and camera settings of a scene.

    Attributes:
        sky_top: Colour of the zenith, 0..255.
        sky_low: Colour of the horizon and of the haze.
        visibility: Distance in metres at which the haze replaces two thirds of a colour.
        cast: Factors of red, green and blue.
        exposure: Common factor of all channels.
        gamma: Exponent of the tone curve.
        noise: Standard deviation of the sensor noise, 0..255.
        blur: Radius of the lens blur in pixels, for an image 256 pixels wide.
        sun: Darkness of the shadows, 0 (overcast) to 1.
    """

    sky_top: Colour
    sky_low: Colour
    visibility: float
    cast: Colour
    exposure: float
    gamma: float
    noise: float
    blur: float
    sun: float


def sample_weather(rng: np.random.Generator) -> Weather:
    """Sample clear, overcast, low-sun or dusk light."""
    kind = rng.choice(4, p=[0.4, 0.3, 0.15, 0.15])
    grey = rng.uniform(165, 240)
    tops: list[Colour] = [(80, 135, 205), (grey, grey, grey + 5), (150, 165, 195), (70, 80, 115)]
    lows: list[Colour] = [(195, 212, 228), (grey - 10, grey - 8, grey), (248, 224, 178), (165, 145, 150)]
    casts: list[Colour] = [(1.02, 1.0, 0.97), (0.97, 1.0, 1.03), (1.12, 1.0, 0.84), (0.9, 0.96, 1.1)]
    jitter = rng.normal(0, 8, 3)
    return Weather(
        sky_top=_shift(tops[kind], jitter),
        sky_low=_shift(lows[kind], jitter),
        visibility=float(rng.uniform(120, 500)),
        cast=casts[kind],
        exposure=float((1.0, 0.92, 1.0, 0.62)[kind] * rng.uniform(0.8, 1.2)),
        gamma=float(rng.uniform(0.8, 1.25)),
        noise=float(rng.uniform(2.0, 7.0)),
        blur=float(rng.uniform(0.3, 0.7)),
        sun=float((1.0, 0.15, 0.8, 0.2)[kind] * rng.uniform(0.6, 1.0)),
    )


def _shift(colour: Colour, by: npt.NDArray[np.float64]) -> Colour:
    red, green, blue = (float(c + d) for c, d in zip(colour, by, strict=True))
    return red, green, blue


def paint_sky(canvas: Canvas, weather: Weather, rng: np.random.Generator) -> None:
    """Fill the image with a gradient down to the horizon, and clouds."""
    width, height = canvas.image.size
    rows = np.clip(np.arange(height, dtype=np.float32) / max(canvas.camera.horizon, 1.0), 0, 1)[:, None]
    column = (1 - rows) * np.array(weather.sky_top, np.float32) + rows * np.array(weather.sky_low, np.float32)
    sky = Image.fromarray(np.clip(column, 0, 255).astype(np.uint8)[:, None, :]).resize((width, height))
    clouds = rng.uniform(0, 255, (7, 9)) * rng.uniform(0, 0.8)
    mask = Image.fromarray(clouds.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    sky.paste((238, 240, 243), (0, 0), mask)
    canvas.image.paste(sky)
    canvas.label.paste(int(TrainId.SKY), (0, 0, width, height))


def render_photo(canvas: Canvas, weather: Weather, rng: np.random.Generator) -> tuple[RGBImage, LabelMap]:
    """Render the drawing as a photograph, with textures, shadows, lens and sensor.

    Returns:
        Image, uint8 [H, W, 3], and label, train ids, uint8 [H, W].
    """
    width, height = canvas.image.size
    unit = width / 256
    label = np.asarray(canvas.label, dtype=np.uint8).copy()
    shade = canvas.shade.filter(ImageFilter.GaussianBlur(1.2 * unit))
    gain = np.asarray(shade, dtype=np.float32) / 255
    gain *= 1 + _texture(label, rng)
    gain *= _falloff(height, width, rng)
    soft = canvas.image.filter(ImageFilter.GaussianBlur(weather.blur * unit))
    photo = np.asarray(soft, dtype=np.float32) * gain[..., None]
    photo *= np.array(weather.cast, np.float32) * (weather.exposure / 255)
    np.clip(photo, 0, 1, out=photo)
    # A lookup table is several times faster than computing the power of every value.
    curve = (255 * np.linspace(0, 1, 1024, dtype=np.float32) ** weather.gamma).astype(np.float32)
    toned: Field = curve[(photo * 1023).astype(np.int16)]
    toned += weather.noise * rng.standard_normal((height, width, 3), dtype=np.float32)
    return np.clip(toned, 0, 255).astype(np.uint8), label


def _texture(label: LabelMap, rng: np.random.Generator) -> Field:
    """Return the relative brightness added by the textures of the classes, [H, W]."""
    height, width = label.shape
    strength = np.zeros((256, 2), dtype=np.float32)
    strength[:] = 0.04
    for train_id, amplitudes in _TEXTURE.items():
        strength[train_id] = amplitudes
    coarse = _field(rng, (height, width), 14)
    fine = _field(rng, (height, width), 90)
    total: Field = strength[label, 0] * coarse + strength[label, 1] * fine
    return total


def _field(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Field:
    """Return smooth noise with about unit variance, [H, W], from a grid of `cells` columns."""
    height, width = shape
    grid = rng.standard_normal((max(2, cells * height // width), cells), dtype=np.float32)
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(smooth, dtype=np.float32) * np.float32(1.4)


def _falloff(height: int, width: int, rng: np.random.Generator) -> Field:
    """Return brightness factors around 1 for vignetting and a low sun, [H, W]."""
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    tilt = np.float32(rng.uniform(-0.15, 0.15))
    vignette = np.float32(rng.uniform(0, 0.12))
    return 1 + tilt * across - vignette * (across**2 + down**2)
