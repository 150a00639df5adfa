"""A CUB-200-2011 of three photographs and two species."""

from tests.data.drawn import photo

FILES = {
    "images.txt": "1 001.Auk/Auk_1.png\n2 001.Auk/Auk_2.png\n3 002.Jay/Jay_3.png",
    "bounding_boxes.txt": "1 10.0 5.0 30.0 20.0\n2 0.0 0.0 90.0 20.0\n3 1.0 1.0 20.0 20.0",
    "train_test_split.txt": "1 1\n2 0\n3 1",
    "image_class_labels.txt": "1 1\n2 1\n3 2",
    "classes.txt": "1 001.Auk\n2 002.Jay",
    "parts/parts.txt": "1 back\n2 left eye",
    "parts/part_locs.txt": "1 1 12.0 8.0 1\n1 2 0.0 0.0 0\n2 1 3.0 4.0 1\n2 2 5.5 6.0 1\n"
    "3 1 2.0 2.0 1\n3 2 3.0 3.0 1",
}


def write_cub(base, **change):
    for name, text in (FILES | change).items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text + "\n")
    for seed, line in enumerate(FILES["images.txt"].splitlines()):
        photo(base / "images" / line.split()[1], seed=seed)
    return str(base)
