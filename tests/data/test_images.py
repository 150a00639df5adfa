import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from distcorr.data import images
from distcorr.data.images import read_image
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def read(folder: Folder, content: bytes) -> np.ndarray:
    folder.write("x", content)
    image = read_image(folder, "x")
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.flags.writeable  # torch warns about arrays that are not
    return image


def test_rgb_is_unchanged(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(read(folder, encoded(Image.fromarray(pixels))), pixels)


def test_grey(folder):
    assert (read(folder, encoded(Image.new("L", (4, 3), 77))) == 77).all()


def test_one_bit(folder):
    assert (read(folder, encoded(Image.new("1", (4, 3), 1))) == 255).all()


def test_palette(folder):
    picture = Image.new("RGB", (4, 3), (10, 200, 30)).quantize(4)
    assert picture.mode == "P"
    assert (read(folder, encoded(picture)) == (10, 200, 30)).all()


def test_palette_with_transparency_lies_over_white(folder):
    content = encoded(Image.new("P", (4, 3), 0), transparency=0)
    assert (read(folder, content) == 255).all()


def test_cmyk(folder):
    image = read(folder, encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert image.reshape(-1, 3).mean(0) == pytest.approx([255, 0, 0], abs=6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(folder, kind):
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = read(folder, encoded(Image.fromarray(levels), kind))
    assert image[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_lies_over_white(folder):
    picture = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (200, 0, 0, 0))
    assert read(folder, encoded(picture)).tolist() == [[[200, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_grey_and_palette_with_an_alpha_channel_lie_over_white(folder, mode):
    picture = Image.new("RGBA", (2, 1), (80, 80, 80, 255))
    picture.putpixel((1, 0), (80, 80, 80, 0))
    kind = "PNG" if mode == "LA" else "TIFF"
    content = encoded(picture.convert(mode), kind)
    with Image.open(BytesIO(content)) as stored:
        assert stored.mode == mode
    assert read(folder, content).tolist() == [[[80] * 3, [255] * 3]]


def test_a_transparent_colour_lies_over_white(folder):
    pixels = np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8)
    content = encoded(Image.fromarray(pixels), transparency=(9, 8, 7))
    assert read(folder, content).tolist() == [[[255] * 3, [1, 2, 3]]]


def test_every_level_of_sixteen_bits_is_rounded_to_the_nearest(folder):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = read(folder, encoded(Image.fromarray(levels)))
    expected = [(2 * level + 257) // 514 for level in range(65536)]  # halves cannot occur
    assert image[..., 1].ravel().tolist() == expected


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF"])
def test_other_formats(folder, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    image = read(folder, encoded(Image.new("RGB", (5, 4), (0, 255, 0)), kind, **options))
    assert image.shape == (4, 5, 3)
    assert (image == (0, 255, 0)).all()


def test_a_moving_picture_is_its_first_frame(folder):
    frames = [Image.new("L", (3, 2), level) for level in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read(folder, content) == 10).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises as many pixels as one likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data


@pytest.mark.parametrize("size", [(9460, 9460), (15000, 10000), (100_000, 100_000)])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_an_enormous_photograph_is_refused_before_it_is_decoded(folder, size, action):
    folder.write("x", bomb(*size))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(
            DistcorrError, match="x is too large: more than 89,478,485 px"
        ) as caught:
            read_image(folder, "x")
    assert caught.value.exit_code == MISSING
    assert caught.value.hint


def test_the_limit_itself_is_allowed(folder, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 12)
    assert read(folder, encoded(Image.new("L", (4, 3)))).shape == (3, 4, 3)
    with pytest.raises(DistcorrError, match="too large"):
        read(folder, encoded(Image.new("L", (13, 1))))


def test_no_room_for_the_pixels_is_not_a_damaged_photograph(folder, monkeypatch):
    def fail(picture):
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", fail)
    with pytest.raises(MemoryError):
        read(folder, encoded(Image.new("L", (4, 3))))


def test_one_pixel(folder):
    assert read(folder, encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


def test_an_exif_rotation_is_not_applied(folder):
    picture = Image.new("RGB", (6, 4))
    exif = picture.getexif()
    exif[0x0112] = 6
    assert read(folder, encoded(picture, "JPEG", exif=exif)).shape == (4, 6, 3)


def noisy_jpeg() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG")


@pytest.mark.parametrize(
    "content",
    [noisy_jpeg()[:2000], noisy_jpeg()[:3], b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\nrest"],
    ids=["cut", "very short", "empty", "html", "png head"],
)
def test_damaged_files_are_named(folder, content):
    folder.write("sub/bad.jpg", content)
    with pytest.raises(DistcorrError, match=r"sub/bad\.jpg") as caught:
        read_image(folder, "sub/bad.jpg")
    assert caught.value.exit_code == MISSING
    assert caught.value.hint


def test_a_missing_file_is_named(folder):
    with pytest.raises(DistcorrError, match=r"none\.jpg is missing") as caught:
        read_image(folder, "none.jpg")
    assert caught.value.exit_code == MISSING
