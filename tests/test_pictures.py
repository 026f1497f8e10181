"""A person's own pictures: how they are read and framed, and what the packaged networks make of them."""

import csv
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.utils.data import DataLoader, TensorDataset

from intff_lightning.backprop import BackpropModule
from intff_lightning.callbacks import PictureWriter, predictions
from intff_lightning.cli import IntFFCLI, main
from intff_lightning.datamodules import FashionMNISTDataModule, MNISTDataModule
from intff_lightning.datamodules.pictures import read_pictures
from intff_lightning.errors import ConfigurationError, DataError
from intff_lightning.framing import Framing, to_shape
from intff_lightning.module import IntFFModule
from intff_lightning.reporting import plots
from intff_lightning.reporting.plots import contact_sheet
from intff_lightning.units import DenseUnit

SIZES = {"input_shape": [1, 8, 8], "num_classes": 3}
MNIST = MNISTDataModule.framing
STROKES = {  # lines of a round pen in a box of 100 x 160
    0: [[(50, 5), (20, 25), (8, 80), (20, 135), (50, 155), (80, 135), (92, 80), (80, 25), (50, 5)]],
    1: [[(60, 5), (50, 80), (42, 155)]],
    2: [[(10, 35), (30, 8), (65, 8), (85, 35), (78, 70), (15, 150), (92, 152)]],
    3: [[(12, 15), (50, 5), (80, 25), (75, 55), (42, 75), (82, 95), (85, 130), (50, 155), (10, 145)]],
    4: [[(25, 5), (12, 85), (90, 82)], [(75, 10), (66, 155)]],
    5: [[(85, 8), (25, 10), (18, 70), (60, 65), (88, 95), (80, 140), (45, 155), (10, 145)]],
    6: [[(70, 5), (30, 50), (12, 110), (30, 150), (65, 152), (85, 120), (65, 90), (30, 95), (15, 120)]],
    7: [[(10, 12), (88, 10), (60, 80), (42, 155)]],
    8: [
        [(75, 20), (45, 5), (20, 30), (35, 65), (75, 100), (80, 135)],
        [(80, 135), (50, 155), (18, 135), (30, 95), (75, 50), (75, 20)],
    ],
    9: [[(80, 40), (55, 8), (22, 20), (15, 60), (45, 78), (78, 50), (80, 40), (72, 155)]],
}


def pen(digit, ink="black", paper="white"):
    """A digit drawn with a round pen on a sheet of 240 x 300."""
    picture = Image.new("RGB", (240, 300), paper)
    draw = ImageDraw.Draw(picture)
    for line in STROKES[digit]:
        points = [(60 + x, 70 + y) for x, y in line]
        draw.line(points, fill=ink, width=16, joint="curve")
        for x, y in points:
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=ink)
    return picture


def printed(digit, ink="black", paper="white"):
    """A digit in a font on a sheet of 300 x 240."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 160)
    picture = Image.new("RGB", (300, 240), paper)
    ImageDraw.Draw(picture).text((90, 20), str(digit), fill=ink, font=font)
    return picture


def predicted(folder="lightning_logs/version_0"):
    with (Path(folder) / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


# -------------------------------------------------------------------- framing


@pytest.mark.parametrize("ink", [pen, printed])
def test_drawn_digits_are_framed_as_mnist_was_made(ink):
    for digit in range(10):
        framed = np.asarray(MNIST.frame(ink(digit)))
        rows, columns = np.nonzero(framed)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        assert framed.max() == 255
        for axis in (0, 1):
            weights = framed.sum(1 - axis, dtype=float)
            assert abs((weights * np.arange(28)).sum() / weights.sum() - 14) <= 0.5


def test_polarity_colour_size_and_place_make_no_difference():
    expected = np.asarray(MNIST.frame(pen(5).convert("L")), float)
    for picture in (
        pen(5, "white", "black"),
        pen(5, "navy", "bisque"),
        pen(5).crop((30, 40, 240, 290)),
        pen(5).resize((720, 900)),
        pen(5).convert("1").convert("L"),
    ):
        assert np.abs(np.asarray(MNIST.frame(picture), float) - expected).mean() < 4


def test_an_image_of_the_data_set_is_taken_as_it_is_and_its_negative_is_not():
    pixels = np.zeros((28, 28), np.uint8)
    pixels[3:9, 2:5] = 40  # neither as bright, as large nor in the middle
    image = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(MNIST.frame(image)), pixels)
    assert np.array_equal(np.asarray(MNIST.frame(image.convert("RGB"))), pixels)
    negative = np.asarray(MNIST.frame(Image.fromarray(255 - pixels)))
    assert negative.max() == 255
    assert np.nonzero(negative.sum(1))[0].size == 20


def test_grey_levels_of_garments_stay():
    picture = Image.new("L", (60, 90), 250)
    picture.paste(150, (10, 20, 50, 60))
    picture.paste(50, (10, 60, 50, 80))
    framed = np.asarray(FashionMNISTDataModule.framing.frame(picture))
    assert framed[0].max() > 0
    assert framed[-1].max() > 0  # 28 rows
    assert framed[10, 13] == 100
    assert framed[24, 13] == 200
    assert framed[14, 0] == framed[14, -1] == 0


def test_input_of_other_shapes():
    picture = Image.new("RGB", (200, 100), (10, 20, 30))
    picture.paste((200, 100, 50), (50, 0, 150, 100))
    colour = to_shape(picture, (3, 32, 32), None)
    assert (colour[:, :, 2:-2] == np.array([200, 100, 50])[:, None, None]).all()  # the square in the middle
    padded = to_shape(pen(3), (3, 32, 32), MNIST)
    assert np.array_equal(padded[0, 2:-2, 2:-2], np.asarray(MNIST.frame(pen(3))))
    assert padded[:, :2].max() == 0
    assert np.array_equal(padded[0], padded[2])
    assert to_shape(pen(3), (1, 10, 10), Framing(side=8, longest=8)).shape == (1, 10, 10)


@pytest.mark.parametrize("light", [True, False])
def test_transparent_pictures_are_laid_on_what_shows_them(light, tmp_path):
    alpha = Image.fromarray(255 - np.asarray(pen(4).convert("L")))
    picture = Image.new("RGBA", alpha.size, "white" if light else "black")
    picture.putalpha(alpha)
    picture.save(tmp_path / "four.png")
    found = read_pictures(tmp_path / "four.png", (1, 28, 28), MNIST).image[0, 0]
    assert np.abs(found.numpy() - np.asarray(MNIST.frame(pen(4)), float)).mean() < 4


def test_the_orientation_of_a_camera_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is on the right of the stored picture
    pen(7).rotate(90, expand=True).save(tmp_path / "seven.png", exif=exif)
    found = read_pictures(tmp_path, (1, 28, 28), MNIST).image[0, 0]
    assert np.array_equal(found.numpy(), np.asarray(MNIST.frame(pen(7))))


def test_what_is_no_picture_is_named(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    with pytest.raises(DataError, match="pictures holds no files"):
        read_pictures(folder, (1, 28, 28), MNIST)
    (folder / "text.png").write_text("no picture")
    Image.new("L", (50, 50), 255).save(folder / "blank.png")
    with pytest.raises(DataError, match=r"blank.png: it is of one colour, and shows nothing"):
        read_pictures(folder, (1, 28, 28), MNIST)
    pen(2).save(folder / "more/two.jpg")
    (folder / ".hidden.png").write_text("left out")
    found = read_pictures(folder, (1, 28, 28), MNIST)
    assert found.names == ["more/two.jpg"]
    assert found.image.shape == (1, 1, 28, 28)
    assert [Path(reason.split(".png")[0]).name for reason in found.skipped] == ["blank", "text"]
    with pytest.raises(DataError, match=r"text.png cannot be read as an image"):
        read_pictures(folder / "text.png", (1, 28, 28), MNIST)
    with pytest.raises(DataError, match="there is no file or folder"):
        read_pictures(tmp_path / "none", (1, 28, 28), MNIST)
    with pytest.raises(ConfigurationError, match="1 or 3 channels"):
        read_pictures(folder, (64,), None)


# -------------------------------------------------------------------- the command


def predict(folder, *options, name="mnist"):
    pictures = ["--images", str(folder)] if folder else []
    return main(["predict", "--ckpt_path", f"pretrained:{name}", *options, *pictures])


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("network", ["mnist", "mnist_by_class", "mnist_conv"])
def test_digits_from_a_pen_and_a_font_are_read(network, tmp_path, capsys):
    for name, draw, colours in (("pen", pen, ("white", "black")), ("font", printed, ("black", "white"))):
        (tmp_path / name).mkdir()
        for digit in range(10):
            draw(digit, *colours).save(tmp_path / name / f"{digit}.png")
    assert predict(tmp_path, name=network) == 0
    printed_lines = capsys.readouterr()
    assert "contact_sheet.png" in printed_lines.out
    assert Path("lightning_logs/version_0/contact_sheet.png").is_file()
    rows = predicted()
    assert len(rows) == 20
    for kind in ("font", "pen"):
        ours = [row for row in rows if row["file"].startswith(kind)]
        assert sum(row["file"] == f"{kind}/{row['class']}.png" for row in ours) >= 9, kind
    for row in rows:
        goodness = [float(row[f"score_{label}"]) for label in range(10)]
        assert int(row["class"]) == int(np.argmax(goodness))


@pytest.mark.usefixtures("blank_figures")
def test_the_files_of_mnist_have_the_classes_of_the_data_set(tiny_mnist, tmp_path):
    assert predict(None, "--data.data_dir", str(tiny_mnist), "--data.val_size", "100") == 0
    data = MNISTDataModule(str(tiny_mnist), val_size=100)
    folder = tmp_path / "files"
    folder.mkdir()
    for k, image in enumerate(data.dataset("test").image):
        Image.fromarray(image[0].numpy()).save(folder / f"{k:03}.png")
    assert predict(folder) == 0
    files, expected = predicted("lightning_logs/version_1"), predicted()
    assert len(files) == len(expected) == 200
    for mine, theirs in zip(files, expected, strict=True):
        assert list(mine.values())[1:] == list(theirs.values())[1:]


@pytest.mark.usefixtures("blank_figures")
def test_many_pictures_take_several_sheets(monkeypatch):
    monkeypatch.setattr(predictions, "_SHEET", 2)
    writer = PictureWriter(["a", "b", "c"], torch.zeros(3, 1, 28, 28, dtype=torch.uint8))
    writer.write(Path("predictions.csv"), [(0, k, 1, [0.0, 2.0, 1.0]) for k in range(3)], slice(1, None))
    assert [path.name for path in writer.sheets] == ["contact_sheet.png", "contact_sheet_2.png"]
    assert all(path.is_file() for path in writer.sheets)
    assert predicted(".")[2] == {
        "file": "c",
        "class": "1",
        "score_0": "0.0",
        "score_1": "2.0",
        "score_2": "1.0",
    }


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: IntFFModule([DenseUnit([10])], **SIZES), "goodness"),
        (lambda: BackpropModule(DenseUnit([10]), **SIZES), "score"),
    ],
)
def test_a_contact_sheet_says_what_its_bars_are(make, what, trainer, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure.get_suptitle().split()))
    pictures = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    writer = PictureWriter(["a", "b"], pictures)
    trainer(callbacks=[writer]).predict(make(), DataLoader(TensorDataset(pictures), batch_size=2))
    assert drawn == [f"What the network sees, and the {what} of each label, on one scale".split()]


def test_a_contact_sheet_has_a_bar_for_the_goodness_of_every_label():
    scores = torch.tensor([[1.0, 4.0, 2.0], [6.0, 3.0, 0.0]])
    figure = contact_sheet(["a.png", "b.png"], torch.rand(2, 1, 28, 28), scores)
    (axes,) = figure.axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([0.8 / 6, 3.2 / 6, 1.6 / 6, 0.8, 0.4, 0.0])  # on one scale
    assert [bar.get_facecolor()[:3] == (0, 0, 0) for bar in axes.patches] == [False, True, False, True, False, False]
    assert len(axes.images) == 2
    assert {"a.png: 1", "b.png: 0"} <= {text.get_text() for text in axes.texts}


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["predict", "--ckpt_path", "pretrained:mnist", "--images", "none"], 1, "there is no file or folder none"),
        (["predict", "--config", "digits", "--images", "."], 1, "--images needs a trained network"),
        (["test", "--ckpt_path", "pretrained:mnist", "--images", "."], 2, "--images has no effect in test"),
        (["test", "--ckpt_path", "pretrained:mnits"], 1, "Did you mean mnist? The names are: digits, mnist"),
        (["fit", "--ckpt_path", "pretrained:mnist"], 1, 'IntFFModule.from_pretrained("mnist").train()'),
    ],
)
def test_mistakes(arguments, code, expected, capsys):
    assert main(arguments) == code
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.strip().splitlines()) <= 2


@pytest.mark.parametrize(("options", "devices"), [([], 1), (["--trainer.devices", "3"], "3")])
def test_pictures_are_not_dealt_out_to_all_devices(options, devices, tmp_path, monkeypatch):
    """There may be fewer pictures than devices."""
    pen(1).save(tmp_path / "one.png")
    made = []

    def make(self, given):
        made.append(given["devices"])
        raise DataError("enough")

    monkeypatch.setattr(IntFFCLI, "make_trainer", make)
    assert predict(tmp_path, *options) == 1
    assert made == [devices]


def test_files_that_are_skipped_are_named(tmp_path, capsys):
    folder = tmp_path / "files"
    folder.mkdir()
    pen(1).save(folder / "one.png")
    (folder / "text.png").write_text("no picture")
    with pytest.warns(UserWarning, match=r"skipped: .*text.png cannot be read as an image"):
        assert predict(folder) == 0
    assert [row["file"] for row in predicted()] == ["one.png"]


def test_a_picture_of_one_row_is_framed():
    row = Image.fromarray(np.array([[255] * 20 + [0] * 10], np.uint8))
    assert Framing(side=28, longest=20).frame(row).size == (28, 28)
