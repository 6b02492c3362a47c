"""Pictures from memory and from folders, and folders that hold none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.errors import RecipeError
from training.tasks.swav.images import ImageFolder, StoredImages


def write(path: Path, width: int, height: int, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


def test_stored_pictures_come_by_number() -> None:
    images = StoredImages(torch.arange(3.0).view(3, 1, 1, 1), np.array([5, 6, 7]))
    assert images.load(np.array([2, 0])).flatten().tolist() == [2.0, 0.0]
    assert images.labels.tolist() == [5, 6, 7]
    with pytest.raises(ValueError, match="3 pictures and 2 labels"):
        StoredImages(torch.zeros(3, 1, 1, 1), np.array([1, 2]))


def test_a_folder_of_classes(tmp_path: Path) -> None:
    write(tmp_path / "red" / "a.png", 40, 20, (255, 0, 0))
    write(tmp_path / "red" / "b.jpg", 20, 50, (255, 0, 0))
    write(tmp_path / "blue" / "deep" / "c.png", 10, 10, (0, 0, 255))
    (tmp_path / "red" / "notes.txt").write_text("not a picture")
    images = ImageFolder(tmp_path, side=16)
    assert images.classes == ("blue", "red")
    assert images.labels.tolist() == [0, 1, 1]
    loaded = images.load(np.array([0, 1]))
    assert (loaded.shape, loaded.dtype) == ((2, 3, 16, 16), torch.float32)
    assert loaded.mean(dim=(2, 3)).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert ImageFolder(tmp_path, side=4, classes=["red"]).labels.tolist() == [0, 0]


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    path = tmp_path / "x" / "a.png"
    path.parent.mkdir()
    stripes = np.zeros((8, 24, 3), dtype=np.uint8)
    stripes[:, 8:16] = 255
    Image.fromarray(stripes).save(path)
    assert ImageFolder(tmp_path, side=8).load(np.array([0])).min() == 1


def test_what_is_no_folder_of_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such folder"):
        ImageFolder(tmp_path / "missing", side=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="holds no pictures; it needs one folder for each class"):
        ImageFolder(tmp_path, side=8)
    (tmp_path / "empty" / "a.png").write_bytes(b"not a picture")
    with pytest.raises(RecipeError, match=r"a\.png: cannot be read as a picture"):
        ImageFolder(tmp_path, side=8).load(np.array([0]))
