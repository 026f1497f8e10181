"""Tables: columns become numbers by what is fitted on training rows, and checkpoints keep it."""

import csv
import io
import json
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from intff_lightning import DenseUnit, IntFFModule
from intff_lightning.callbacks import PredictionWriter
from intff_lightning.cli import main
from intff_lightning.datamodules import TableDataModule
from intff_lightning.datamodules.cells import number, text
from intff_lightning.datamodules.columns import Preprocessing
from intff_lightning.datamodules.reading import read_table
from intff_lightning.errors import CheckpointError, ConfigurationError, DataError

ROWS = """age,port,fare,class,id
22,S,7.25,third,a
38,C,71.5,first,b
,S,8.0,third,c
35,,53.0,first,d
54,Q,?,second,e
2,S,21.0,third,f
"""


def _file(text, name="table.csv"):
    Path(name).write_text(text)
    return name


def _table(**columns):
    return read_table(columns, "table")


def _columns(count=60, seed=0):
    """Return a table whose class follows from a number and a category."""
    random = np.random.default_rng(seed)
    x, kind = random.normal(5, 3, count), random.choice(["b", "a", "c"], count)
    target = np.where(x > 5, "up", np.where(kind == "a", "down", "level"))
    return {"x": list(x), "kind": list(kind), "goal": list(target)}


# -------------------------------------------------------------------- reading and preprocessing


def test_features_are_those_computed_by_hand():
    table = read_table(_file(ROWS), "table")
    fitted = Preprocessing().fit(table, ["age", "port", "fare"], [], "table")
    assert fitted.features == [
        "age", "fare", "missingindicator_age", "missingindicator_fare", "port_", "port_C", "port_Q", "port_S",
    ]  # fmt: skip
    age, fare = np.array([22, 38, np.nan, 35, 54, 2]), np.array([7.25, 71.5, 8, 53, np.nan, 21])
    by_hand = []
    for column in (age, fare):
        by_hand.append(np.nan_to_num((column - np.nanmean(column)) / np.nanstd(column)))
    by_hand += [np.isnan(age), np.isnan(fare)]
    by_hand += [np.array([port == name for port in ("S", "C", "S", "", "Q", "S")]) for name in ("", "C", "Q", "S")]
    got = fitted.transform(table, "table")
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, np.stack(by_hand, 1), atol=1e-6)


@pytest.mark.parametrize(
    "columns",
    [
        {"x": [1.0, None, 3.0], "missingindicator_x": [1.0, 2.0, 4.0]},
        {"port": ["C", "S", "C"], "port_C": [1.0, 2.0, 4.0]},
        {"a_b": ["c", "d", "d"], "a": ["b_c", "d", "d"]},
    ],
)
def test_features_have_names_of_their_own(columns):
    with pytest.raises(DataError, match="features of two columns have the name"):
        Preprocessing().fit(_table(**columns), list(columns), [], "table")


def test_a_blank_line_of_a_file_with_one_column_is_an_empty_cell():
    assert read_table(_file("x\n1\n\n3\n"), "table")["x"].tolist() == ["1", None, "3"]
    assert read_table(_file("x,y\n1,2\n\n3,4\n"), "table")["x"].tolist() == ["1", "3"]


def test_what_was_fitted_does_not_depend_on_other_rows():
    training = _table(x=[1.0, 3.0], kind=["a", "b"])
    fitted = Preprocessing().fit(training, ["x", "kind"], [], "table")
    with pytest.warns(UserWarning, match=r"1 rows have categories in column 'kind' that no training row has \(z\)"):
        got = fitted.transform(_table(x=[100.0, None], kind=["z", None]), "new")
    assert got.tolist() == [[98.0, 0.0, 0.0], [0.0, 0.0, 0.0]]  # (100 - 2) / 1; a gap becomes the mean


def test_preprocessing_is_rebuilt_to_the_same_bits_from_plain_values():
    random = np.random.default_rng(0)
    columns = {
        "year": [2000 + value * 1e-3 for value in random.random(50)],  # a mean far above the spread
        "one": [4.0] * 50,
        "missingindicator_one": [float(value < 0.5) for value in random.random(50)],  # "one" has no gap
        "gaps": [None if value < 0.3 else value for value in random.random(50)],
        "kind": [None if value < 0.2 else f"k{int(9 * value)}" for value in random.random(50)],
    }
    table = read_table(columns, "table")
    with pytest.warns(UserWarning, match=r"1 columns have one value in all training rows \(one\)"):
        fitted = Preprocessing().fit(table, list(columns), [], "table")
    rebuilt = Preprocessing(json.loads(json.dumps(fitted.state())))
    assert rebuilt.features == fitted.features
    assert torch.equal(rebuilt.transform(table, "table"), fitted.transform(table, "table"))
    assert rebuilt.state() == fitted.state()


def test_files_mappings_and_frames_are_alike():
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(io.StringIO(ROWS), na_values=["?"])
    frame["port"] = frame["port"].astype("category")
    rows = list(csv.DictReader(io.StringIO(ROWS)))
    mapping = {name: [row[name] for row in rows] for name in rows[0]}
    options = {"target": "class", "ignore": ["id"], "test_size": 0, "val_size": 0}
    made = [TableDataModule(table, **options) for table in (_file(ROWS), mapping, frame)]
    first, *others = [each.dataset("train") for each in made]
    assert [each.feature_names for each in made[1:]] == [made[0].feature_names] * 2
    for other in others:
        assert torch.equal(first.image, other.image)
        assert torch.equal(first.target, other.target)


def test_a_frame_of_nullable_numbers_has_gaps():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": pandas.array([1, None, 3], dtype="Int64"), "s": pandas.array(["a", None, "b"])})
    cells = read_table(frame, "frame")
    assert cells["n"].tolist() == [1, None, 3]
    assert cells["s"].tolist() == ["a", None, "b"]


def test_numbers_may_be_categories_and_classes_are_sorted_as_what_they_are():
    table = {"zone": [10, 2, 10, 33], "x": [1.0, 2.0, 3.0, 4.0], "goal": [10, 9, 10, 9]}
    data = TableDataModule(table, target="goal", categorical=["zone"], test_size=0, val_size=0)
    assert data.feature_names == ["x", "zone_10", "zone_2", "zone_33"]
    assert data.class_names == ["9", "10"]  # by size
    assert data.num_classes == 2
    assert data.dataset("train").target.tolist() == [1, 0, 1, 0]
    assert data.input_shape == (4,)


@pytest.mark.parametrize(
    ("name", "target", "classes", "shape"),
    [("wine", "target", ["class_0", "class_1", "class_2"], (13,)), ("linnerud", "Waist", None, (5,))],
)
def test_data_of_scikit_learn_are_named(name, target, classes, shape):
    data = TableDataModule(f"sklearn:{name}", target=target, regression=classes is None)
    assert data.input_shape == shape
    assert data.class_names == classes


# -------------------------------------------------------------------- parts


def test_parts_are_drawn_by_row_and_fitted_on_training_rows_alone():
    table = _columns(200)
    data = TableDataModule(table, target="goal", test_size=40, val_size=0.25, seed=1)
    sizes = [len(data.dataset(part)) for part in ("train", "val", "test")]
    assert sizes == [120, 40, 40]
    numbers = [data.dataset(part).image[:, 0] for part in ("train", "val", "test")]
    assert abs(float(numbers[0].mean())) < 1e-6  # standardized by its own mean
    assert float(numbers[0].double().std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert abs(float(torch.cat(numbers[1:]).mean())) > 1e-3  # and the others by that of the training rows
    rebuilt = sorted(torch.cat(numbers).tolist())
    assert len(set(rebuilt)) == 200  # every row is in one part
    again = TableDataModule(table, target="goal", test_size=40, val_size=0.25, seed=2)
    assert torch.equal(again.dataset("test").image, data.dataset("test").image)  # another seed draws no other rows
    other = TableDataModule(table, target="goal", test_size=40, val_size=0.25, val_seed=1)
    assert not torch.equal(other.dataset("test").target, data.dataset("test").target)


def test_a_column_or_further_tables_name_the_parts():
    table = _columns(30)
    named = {**table, "part": ["train"] * 20 + ["val"] * 6 + ["test"] * 4}
    by_column = TableDataModule(named, target="goal", split="part")
    cut = [{name: column[start:end] for name, column in table.items()} for start, end in ((0, 20), (20, 26), (26, 30))]
    by_table = TableDataModule(cut[0], target="goal", val_table=cut[1], test_table=cut[2])
    assert by_column.feature_names == ["x", "kind_a", "kind_b", "kind_c"]
    for part, size in (("train", 20), ("val", 6), ("test", 4)):
        assert len(by_column.dataset(part)) == size
        assert torch.equal(by_column.dataset(part).image, by_table.dataset(part).image)
        assert torch.equal(by_column.dataset(part).target, by_table.dataset(part).target)


PARTS = {**_columns(9), "part": ["train"] * 7 + ["val", "test"]}


def _all_parts(**options):
    data = TableDataModule(**options)
    return [data.dataset(part) for part in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "which column is to be predicted"),
        ({"target": "gaol"}, "there is no column 'gaol'"),
        ({"target": "goal", "ignore": ["y"]}, "there is no column 'y'"),
        ({"target": "goal", "separator": ", "}, "one character"),
        ({"target": "goal", "test_size": 1.5}, "test_size=1.5"),
        ({"target": "goal", "split": "kind"}, "'kind' has the value"),
        ({"target": "goal", "split": "part"}, "there is no column 'part'"),
        ({"target": "goal", "split": "x", "test_table": {"x": [1]}}, "leave val_table and test_table out"),
        ({"target": "goal", "val_table": _columns(3), "val_size": 0.3}, "val_size=0.3 has no effect"),
        ({"target": "goal", "test_table": _columns(3), "test_size": 0.3}, "test_size=0.3 has no effect"),
        ({"target": "goal", "val_size": 60, "test_size": 0}, "val_size=60 leaves nothing of 60"),
        ({"target": "goal", "missing": "NA"}, r"missing='NA': a list is needed, missing=\['NA'\]"),
        ({"target": "goal", "ignore": "x"}, "ignore='x': a list is needed"),
        ({"target": "goal", "categorical": "x"}, "categorical='x': a list is needed"),
        ({"target": "goal", "separator": ";"}, "separator=';' has no effect: no table is a CSV file"),
        ({"table": "sklearn:wine", "target": "target", "separator": ";"}, "separator=';' has no effect"),
        ({"target": "goal", "val_table": _columns(3), "test_table": _columns(3), "val_seed": 1}, "val_seed=1 has no"),
        ({"target": "goal", "val_size": 0, "test_size": 0, "val_seed": 1}, "val_seed=1 has no effect"),
        ({"target": "goal", "split": "kind", "val_size": 0, "val_seed": 1}, "val_seed=1 has no effect"),
        ({"table": PARTS, "target": "goal", "split": "part", "val_seed": 1}, "val_seed=1 has no effect: column 'part'"),
        ({"target": "goal", "ignore": ["goal"]}, "ignore: 'goal' has no effect, because it is the target"),
        ({"target": "goal", "categorical": ["goal"]}, "categorical: 'goal' has no effect"),
        ({"target": "goal", "split": "kind", "ignore": ["kind"]}, "ignore: 'kind' has no effect, .* the split"),
        ({"target": "goal", "ignore": ["x"], "categorical": ["x"]}, "categorical: 'x' .* ignore names it too"),
        ({"target": "goal", "split": "goal"}, "target and split are both 'goal'"),
        ({"target": "goal", "pixel_range": [0, 255]}, "pixel_range has no effect: a table"),
        ({"target": "goal", "vocabulary": 10}, "vocabulary=10 has no effect: a table"),
        ({"target": "goal", "keys": ["x", "goal"]}, "keys has no effect: a table"),
        ({"target": "goal", "test_size": 60}, "test_size=60 leaves nothing of 60"),
        ({"table": {"x": [1], "p": ["test"], "y": [1]}, "target": "y", "split": "p"}, "'p' names no row to train on"),
        ({"target": "goal", "regression": True}, "in column 'goal' .* is no finite number"),
        ({"table": None, "target": "goal"}, "no data"),
        ({"table": 3, "target": "goal"}, "table is of type int"),
        ({"table": "sklearn:boston", "target": "target"}, "choose from iris"),
        ({"table": {"x": [1.0, 2.0], "goal": ["a", None]}, "target": "goal"}, "1 rows have no value of the target"),
        ({"table": {"x": [1.0, 2.0], "y": [1.0]}, "target": "y"}, "different lengths"),
        ({"table": {"x": [None, None], "goal": ["a", "b"]}, "target": "goal", "test_size": 0}, "no value in the train"),
        ({"table": {"goal": ["a", "b"]}, "target": "goal"}, "no column is left"),
        ({"table": "missing.csv", "target": "goal"}, "missing.csv is no table that can be read"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises((ConfigurationError, DataError), match=message):
        _all_parts(**{"table": _columns(), **options})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "line 3: there are 1 cells, and 2 columns"),
        ("a,a\n1,2\n", "names the column 'a' twice"),
        ("", "is empty"),
        ("a,b\n", r"table.csv has names of columns, and no rows\."),
        ('a,b\n1,"2\n', "is no table that can be read"),
    ],
)
def test_damaged_files_are_refused(text, message):
    name = _file(text)
    with pytest.raises(DataError, match=message):
        read_table(name, name)


@pytest.mark.parametrize("table", ["file", "frame", "mapping"])
@pytest.mark.parametrize(
    ("head", "message"),
    [
        (["", "x"], "column 1 has no name. .* index=False"),
        (["x", ""], "column 2 has no name"),
        (["x", "y", "x"], "names the column 'x' twice"),
        ([1, "1"], "names the column '1' twice"),
    ],
)
def test_every_column_needs_a_name_of_its_own(table, head, message):
    if table == "file":
        made = _file(",".join(map(str, head)) + "\n" + ",".join("5" for _ in head) + "\n")
    elif table == "frame":
        made = pytest.importorskip("pandas").DataFrame([[5] * len(head)] * 2, columns=head)
    else:
        made = {name: [5, 5] for name in head}
        if len(made) < len(head):
            return  # a mapping cannot have a name twice
    with pytest.raises(DataError, match=message):
        read_table(made, "table")


def test_the_index_that_pandas_writes_is_no_feature():
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(_columns()).to_csv("table.csv")
    with pytest.raises(DataError, match=r"table.csv: column 1 has no name\. .* to_csv\(\.\.\., index=False\)"):
        TableDataModule("table.csv", target="goal").dataset("train")
    data = TableDataModule(pandas.read_csv("table.csv").iloc[::-1], target="goal")
    with pytest.warns(UserWarning, match="column 'Unnamed: 0' has the name that pandas gives"):
        data.dataset("train")


@pytest.mark.parametrize("first", [0, 1])
def test_a_column_that_numbers_the_rows_is_warned_of(first):
    table = {"id": list(range(first, 60 + first)), **_columns()}
    with pytest.warns(UserWarning, match=r"column 'id' numbers the rows.*ignore=\['id'\]"):
        TableDataModule(table, target="goal").dataset("train")
    TableDataModule(table, target="goal", ignore=["id"]).dataset("train")
    TableDataModule({**table, "id": table["id"][::-1]}, target="goal").dataset("train")  # no warning


@pytest.mark.parametrize("cell", ["unknown", "inf", "-Infinity", "1,000", float("inf"), np.float32("-inf"), True])
def test_an_odd_cell_does_not_turn_numbers_into_categories(cell):
    table = _columns()
    table["x"][41] = cell
    for options in ({}, {"val_size": 0, "test_size": 0}):
        with pytest.raises(DataError, match=r"in column 'x' \(row 41\) is no finite number") as error:
            TableDataModule(table, target="goal", **options).dataset("train")
        assert repr(cell) in str(error.value)
        assert "missing=[" in str(error.value)
        assert "categorical=['x']" in str(error.value)
    marked = TableDataModule(table, target="goal", missing=[str(cell)], val_size=0, test_size=0)
    assert marked.feature_names[:2] == ["x", "missingindicator_x"]


def test_texts_for_missing_values_are_compared_as_numbers_or_as_texts():
    rows = "x,code,note\n-999.0,01,N/A\n-999,1,NaN\n 3 ,00,nan\n5,0,\n"
    frame = {"x": [-999.0, -999, 3, 5], "code": ["01", "1", "00", "0"], "note": ["N/A", "NaN", float("nan"), None]}
    for given in (_file(rows), frame):
        table = read_table(given, "table", missing=["-999", "00"], expected=True)
        assert [cell if cell is None else float(cell) for cell in table["x"]] == [None, None, 3.0, 5.0]
        assert table["code"].tolist() == ["01", "1", None, "0"]  # codes are texts
        assert table["note"].tolist() == ["N/A", None, None, None]
    with pytest.warns(UserWarning, match=r"missing: '1.50' occurs nowhere in table\."):
        read_table(frame, "table", missing=["-999", "1.50"], expected=True)


def test_a_text_for_missing_values_that_occurs_nowhere_is_warned_of(trained):
    data = TableDataModule(_columns(), target="goal", missing=["-999"])
    with pytest.warns(UserWarning, match="missing: '-999' occurs nowhere in table"):
        data.dataset("train")
    table = _columns(100)
    table["x"][7] = -999
    trained(table, missing=["-999"])
    new = TableDataModule.from_checkpoint("some.ckpt", predict_table=_columns(5))  # no warning: it need not occur here
    assert len(new.dataset("predict")) == 5


def test_missing_values_of_other_libraries():
    pandas = pytest.importorskip("pandas")
    gone = [pandas.NA, pandas.NaT, Decimal("NaN"), Decimal("sNaN"), np.datetime64("NaT"), np.float32("nan"), None]
    assert read_table({"x": [*gone, 1]}, "table")["x"].tolist() == [None] * len(gone) + [1]
    frame = pandas.DataFrame({"x": pandas.Series([*gone, 1], dtype=object)})
    assert read_table(frame, "table")["x"].tolist() == [None] * len(gone) + [1]


def test_cells_of_a_frame_are_no_lists():
    pandas = pytest.importorskip("pandas")
    for cell in ([1, 2], (1,), {"a": 1}, np.zeros(2)):
        with pytest.raises(DataError, match=r"column 'x' has a cell of type \w+ \(row 1\)"):
            read_table(pandas.DataFrame({"x": [1, cell]}), "table")


def test_whole_numbers_are_the_same_class_or_category_however_they_are_written():
    data = TableDataModule(
        _file("x,zone,y\n1,01,1\n2,1.0,1.0\n3,1,2.00\n4,-0.0,-3.0\n5,1.50,2\n6,1.5,-3\n"),
        target="y", categorical=["zone"], test_size=0, val_size=0,
    )  # fmt: skip
    assert data.class_names == ["-3", "1", "2"]
    assert data.dataset("train").target.tolist() == [1, 1, 2, 0, 2, 0]
    assert data.feature_names[1:] == ["zone_0", "zone_01", "zone_1", "zone_1.5", "zone_1.50"]
    assert [text(cell) for cell in (1, 1.0, np.float32(1), Decimal("1.0"), "1.", "01.0")] == ["1"] * 4 + ["1.", "01.0"]


def test_numbers_are_written_in_ascii_digits_without_separators():
    read = ("1", "-1.5", "+2.", ".5", "1e3", "-2.5E-3", " 7 ", 3, np.int64(4), Decimal("0.5"))
    assert [number(cell) for cell in read] == [1, -1.5, 2, 0.5, 1000, -0.0025, 7, 3, 4, 0.5]
    strange = ["1_000", "٣", "1,000", "inf", "nan", "1e999", "", ".", "e3", "0x10", "1 2", True, None, float("inf")]
    assert [number(cell) for cell in strange] == [None] * len(strange)


def test_few_numbers_are_categories_beside_texts_but_no_infinite_number_is_one():
    grades = {"grade": [*range(1, 7), "none"] * 9, "goal": ["a", "b", "c"] * 21}
    data = TableDataModule(grades, target="goal", test_size=0, val_size=0)
    assert data.feature_names == [*(f"grade_{number}" for number in range(1, 7)), "grade_none"]
    with pytest.raises(DataError, match=r"inf in column 'grade' \(row 2\)"):
        Preprocessing().fit(_table(grade=[1.0, 2.0, float("inf")]), ["grade"], [], "table")
    assert Preprocessing().fit(_table(grade=["inf", "sup"]), ["grade"], [], "table").features[0] == "grade_inf"


def test_messages_count_the_rows_of_the_table():
    table = {**_columns(), "part": ["train"] * 40 + ["test"] * 20}
    table["x"][51:] = ["high"] * 9  # too many to be odd cells
    table["x"][45:51] = ["low"] * 6
    data = TableDataModule(table, target="goal", split="part")
    with pytest.raises(DataError, match=r"'low' in column 'x' \(row 45\) is no finite number"):
        data.dataset("test")


def test_many_categories_are_warned_of_and_strange_values_refused():
    many = {"name": [f"n{number}" for number in range(60)], "x": [1.0, 2.0] * 30, "goal": ["a", "b"] * 30}
    data = TableDataModule(many, target="goal", test_size=0, val_size=0)
    with pytest.warns(UserWarning, match="column 'name' has 60 categories in 60 training rows"):
        data.dataset("train")
    data = TableDataModule(_columns(), target="goal", test_table={"x": ["high"], "kind": ["a"], "goal": ["up"]})
    with pytest.raises(DataError, match=r"test_table: 'high' in column 'x' \(row 0\) is no finite number"):
        data.dataset("test")
    data = TableDataModule(_columns(), target="goal", test_table={"x": [1], "kind": ["a"], "goal": ["sideways"]})
    with pytest.raises(DataError, match="the value 'sideways', which no row for training has"):
        data.dataset("test")
    data = TableDataModule(_columns(), target="goal", test_table={"x": [1], "goal": ["up"]})
    with pytest.raises(DataError, match="there is no column 'kind', which the network reads"):
        data.dataset("test")


# -------------------------------------------------------------------- with a network


def test_a_checkpoint_reads_new_tables_as_its_network_did(trainer):
    table = _columns(200)
    data = TableDataModule(table, target="goal", batch_size=32)
    fit = trainer(max_epochs=2)
    fit.fit(IntFFModule([DenseUnit([12])]), data)
    fit.save_checkpoint("some.ckpt")
    new = {"kind": ["c", "a"], "x": ["7.5", ""]}  # other columns in another order, and no target

    module = IntFFModule.load_from_checkpoint("some.ckpt")
    again = TableDataModule.from_checkpoint("some.ckpt", predict_table=new)
    assert again.init_arguments()["table"] is None  # it cannot be in a checkpoint, and is not needed
    (scores,) = trainer().predict(module, again)
    columns = data.feature_names
    mean, scale = (data.preprocessing["numeric"]["x"][key] for key in ("mean", "scale"))
    rows = torch.zeros(2, len(columns))
    rows[0, columns.index("x")] = (7.5 - mean) / scale
    rows[0, columns.index("kind_c")] = rows[1, columns.index("kind_a")] = 1
    torch.testing.assert_close(scores, module(rows).detach())
    assert again.class_names == ["down", "level", "up"]

    # other training rows would be standardized otherwise; the checkpoint's values are taken
    other = TableDataModule({**table, "x": [value + 10 for value in table["x"]]}, target="goal", predict_table=new)
    (same,) = trainer().predict(module, other, ckpt_path="some.ckpt")
    torch.testing.assert_close(same, scores)
    changed = TableDataModule({**table, "x": [value + 10 for value in table["x"]]}, target="goal")
    with pytest.raises(CheckpointError, match="the training rows are not those of the checkpoint"):
        trainer(max_epochs=3).fit(module, changed, ckpt_path="some.ckpt")
    with pytest.raises(ConfigurationError, match="does not know what was fitted"):
        trainer().predict(module, TableDataModule(predict_table=new))
    torch.save({"state_dict": {}, "recipes": {}}, "none.ckpt")
    with pytest.raises(CheckpointError, match="was not trained on a table"):
        TableDataModule.from_checkpoint("none.ckpt")
    with pytest.raises(CheckpointError, match=r"missing\.ckpt"):
        TableDataModule.from_checkpoint("missing.ckpt")
    with pytest.raises(ConfigurationError, match="ignore has no effect"):
        TableDataModule.from_checkpoint("some.ckpt", table=table, ignore=["x"])


def test_a_run_does_not_resume_with_the_rows_in_another_order(trainer):
    table = _columns(100)
    fit = trainer(max_epochs=1)
    fit.fit(IntFFModule([DenseUnit([12])]), TableDataModule(table, target="goal"))
    fit.save_checkpoint("some.ckpt")
    moved = {name: values[::-1] for name, values in table.items()}  # other rows are drawn for the test
    module, data = IntFFModule([DenseUnit([12])]), TableDataModule.from_checkpoint("some.ckpt", table=table)
    trainer(max_epochs=2).fit(module, data, ckpt_path="some.ckpt")
    data = TableDataModule.from_checkpoint("some.ckpt", table=moved)
    with (
        pytest.warns(UserWarning, match="was trained on other rows"),
        pytest.raises(CheckpointError, match="the training rows are not those of the checkpoint"),
    ):
        trainer(max_epochs=2).fit(IntFFModule([DenseUnit([12])]), data, ckpt_path="some.ckpt")


def test_sizes_of_the_training_do_not_matter_beside_a_test_table(trainer):
    table = _columns(100)
    fit = trainer(max_epochs=1)
    fit.fit(IntFFModule([DenseUnit([12])]), TableDataModule(table, target="goal", test_size=0.3))
    fit.save_checkpoint("some.ckpt")
    data = TableDataModule.from_checkpoint("some.ckpt", test_table=_columns(40, seed=1))
    assert len(data.dataset("test")) == 40


def test_options_of_the_training_that_new_tables_leave_without_effect_are_left_out(trained, trainer):
    new = _columns(40, seed=1)
    columns = {**_columns(60), "part": ["train"] * 40 + ["val"] * 10 + ["test"] * 10}
    _file("\n".join(";".join(map(str, row)) for row in [columns, *zip(*columns.values(), strict=True)]))
    module = trained("table.csv", split="part", separator=";")
    for tables in ({"test_table": new}, {"val_table": new, "test_table": new}, {"table": None, "test_table": new}):
        data = TableDataModule.from_checkpoint("some.ckpt", **tables)
        trainer().test(module, data)
        assert len(data.dataset("test")) == 40
    trained(_columns(60), val_seed=1)
    TableDataModule.from_checkpoint("some.ckpt", val_table=new, test_table=new)
    with pytest.raises(ConfigurationError, match="val_seed=2 has no effect"):
        TableDataModule.from_checkpoint("some.ckpt", val_table=new, test_table=new, val_seed=2)


def test_mappings_may_hold_tensors_and_arrays_of_one_dimension():
    numbers = torch.tensor([10.0, 2.0, float("nan"), 3.0])
    table = read_table({"x": numbers, "y": np.array([1, 2, 3, 4]), "z": torch.tensor([10, 2, 10, 2])}, "table")
    assert table["x"].tolist() == [10.0, 2.0, None, 3.0]
    assert table["z"].tolist() == [10, 2, 10, 2]
    with pytest.raises(DataError, match="column 'x' has a cell of type list"):
        read_table({"x": np.zeros((4, 2)), "y": [1, 2, 3, 4]}, "table")


@pytest.fixture
def trained(trainer):
    """Return a factory: train on a table, and return the network of the checkpoint ``some.ckpt``."""

    def make(table, **options):
        fit = trainer()
        fit.fit(IntFFModule([DenseUnit([12])]), TableDataModule(table, target="goal", **options))
        fit.save_checkpoint("some.ckpt")
        return IntFFModule.load_from_checkpoint("some.ckpt")

    return make


def _sorted(table):
    order = np.argsort(table["x"])
    return {name: [values[row] for row in order] for name, values in table.items()}


APART = "the training rows are not those of the checkpoint, so its network may have been trained on these"


@pytest.mark.parametrize("change", ["sorted", "shorter", "val_seed", "val_size"])
def test_rows_that_may_have_been_trained_on_are_not_evaluated(change, trained, trainer):
    table = _columns(100)
    module = trained(table)
    options = {"val_seed": 1} if change == "val_seed" else {"val_size": 0.3} if change == "val_size" else {}
    other = {name: values[1:] for name, values in table.items()} if change == "shorter" else table
    other = _sorted(other) if change == "sorted" else other
    for run in ("test", "validate", "predict"):
        with pytest.raises(CheckpointError, match=APART):  # the network is given, and the data know its checkpoint
            getattr(trainer(), run)(module, TableDataModule.from_checkpoint("some.ckpt", table=other, **options))
        data = TableDataModule(other, target="goal", **options)
        with pytest.raises(CheckpointError, match=APART):  # the Trainer loads the checkpoint, as the command line does
            getattr(trainer(), run)(module, data, ckpt_path="some.ckpt")
    with pytest.raises(CheckpointError, match=rf"{APART} test rows\.\nGive test_table="):
        TableDataModule.from_checkpoint("some.ckpt", table=other, **options).dataset("test")
    with pytest.raises(CheckpointError, match=APART):
        TableDataModule.from_checkpoint("some.ckpt", table=other, **options).test_dataloader()


def test_the_same_rows_and_tables_of_their_own_are_evaluated(trained, trainer):
    table, new = _columns(100), _columns(20, seed=1)
    module = trained(table)
    more = {**table, "note": ["a column that is not read"] * 100}
    for data in (
        TableDataModule.from_checkpoint("some.ckpt", table=more),
        TableDataModule.from_checkpoint("some.ckpt", table=_sorted(table), val_table=new, test_table=new),
        TableDataModule.from_checkpoint("some.ckpt", val_table=new, test_table=new),
    ):
        for run in ("test", "validate", "predict"):
            getattr(trainer(), run)(module, data)
            getattr(trainer(), run)(module, data, ckpt_path="some.ckpt")
    predict = TableDataModule.from_checkpoint("some.ckpt", table=_sorted(table), predict_table=new)
    trainer().predict(module, predict)


def test_rows_for_test_may_change_where_a_column_names_them(trained, trainer):
    table = {**_columns(60), "part": ["train"] * 40 + ["val"] * 10 + ["test"] * 10}
    module = trained(table, split="part")
    cut = {name: values[:-5] for name, values in table.items()}
    trainer().test(module, TableDataModule.from_checkpoint("some.ckpt", table=cut))


def test_a_network_is_trained_further_on_other_rows_with_a_warning(trained, trainer):
    table = _columns(100)
    module = trained(table)
    data = TableDataModule.from_checkpoint("some.ckpt", table=_sorted(table))
    fit = trainer()
    with pytest.warns(UserWarning, match="trained on other rows.* Give val_table= and test_table="):
        fit.fit(module, data)
    fit.test(module, data)  # of the rows that it was trained on now
    fit.save_checkpoint("further.ckpt")
    trainer().test(module, TableDataModule.from_checkpoint("further.ckpt", table=_sorted(table)))


def test_a_checkpoint_of_an_evaluation_knows_the_training_rows(trained, trainer):
    module = trained(_columns(100))
    test = trainer()
    test.test(module, TableDataModule.from_checkpoint("some.ckpt", test_table=_columns(20, seed=1)))
    test.save_checkpoint("tested.ckpt")
    with pytest.raises(CheckpointError, match=APART):
        TableDataModule.from_checkpoint("tested.ckpt", table=_columns(99)).dataset("test")


def test_predictions_name_the_rows_of_the_table(trained, trainer):
    table = _columns(100)
    module, data = trained(table), TableDataModule.from_checkpoint("some.ckpt", table=table)
    trainer(callbacks=[PredictionWriter("drawn.csv")]).predict(module, data)
    written = [int(line.split(",")[0]) for line in Path("drawn.csv").read_text().splitlines()[1:]]
    assert len(written) == 20
    assert written == sorted(written) != list(range(20))
    mean, scale = (data.preprocessing["numeric"]["x"][key] for key in ("mean", "scale"))
    expected = [(table["x"][row] - mean) / scale for row in written]
    np.testing.assert_allclose(data.dataset("predict").image[:, 0], expected, rtol=1e-4, atol=1e-5)
    own = TableDataModule.from_checkpoint("some.ckpt", predict_table=_columns(5))
    trainer(callbacks=[PredictionWriter("own.csv")]).predict(module, own)
    assert [line.split(",")[0] for line in Path("own.csv").read_text().splitlines()[1:]] == list("01234")


def test_a_row_whose_features_are_all_0_has_class_0(trained):
    module = trained(_columns(100))
    scores = module(torch.zeros(1, 4))[0]
    assert (scores == scores[0]).all()  # the label is as large as the largest feature, so none is shown
    assert scores.argmax() == 0


@pytest.mark.slow
def test_the_command_line_trains_resumes_and_predicts_new_rows(capsys, blank_figures):
    columns = _columns(150)
    with open("table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    unit = {"class_path": "DenseUnit", "init_args": {"widths": [32, 32]}}
    model = {
        "units": [unit],
        "normalization": {"class_path": "UnitL2", "init_args": {"gain": 10}},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
    }
    table = {"table": "table.csv", "target": "goal", "batch_size": 16}
    config = {
        "trainer": {"max_epochs": 3, "accelerator": "cpu"},
        "model": {"class_path": "IntFFModule", "init_args": model},
        "data": {"class_path": "TableDataModule", "init_args": table},
    }
    Path("table.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "table.yaml"]) == 0, capsys.readouterr().err
    assert main(["fit", "--config", "table.yaml", "--trainer.max_epochs", "12", "--ckpt_path", "last"]) == 0
    Path("table.csv").unlink()
    Path("new.csv").write_text("kind,x\na,2\nb,9\n")
    new = ["--ckpt_path", "best", "--data.predict_table", "new.csv"]
    assert main(["predict", *new]) == 0, capsys.readouterr().err
    (path,) = Path("lightning_logs").rglob("predictions.csv")
    head, *rows = list(csv.reader(path.read_text().splitlines()))
    assert head == ["index", "label", "score_down", "score_level", "score_up"]
    assert [row[1] for row in rows] == ["down", "up"]
    Path("new.yaml").write_text("data: {class_path: TableDataModule, init_args: {predict_table: new.csv}}")
    assert main(["predict", "--ckpt_path", "best", "--config", "new.yaml"]) == 0, capsys.readouterr().err
    first, second = sorted(Path("lightning_logs").rglob("predictions.csv"))
    assert first.read_text() == second.read_text()


def test_nothing_is_warned_of_in_an_ordinary_run(trainer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        data = TableDataModule(_columns(), target="goal", batch_size=32)
        trainer().fit(IntFFModule([DenseUnit([8])]), data)
