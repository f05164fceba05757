"""Objects of a picture and files of eye movements: what is read, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from probe.errors import InputError
from probe.gaze.appearance import NAMES, plain_features
from probe.gaze.boxes import Objects, propose, read_boxes
from probe.gaze.readers import read_scanpaths
from probe.gaze.scene import Scene, Trial, grid
from probe.gaze.trials import path_over, sti_trials


def coco(path, boxes, **more):
    path.write_text(json.dumps({"annotations": [{"bbox": b} for b in boxes], **more}))
    return path


def test_boxes_of_coco_and_csv_are_the_same_parts_of_the_picture(tmp_path):
    (tmp_path / "b.csv").write_text("x,y,width,height,name\n10,20,30,40,cup\n90,0,20,10,\n")
    ours = read_boxes(tmp_path / "b.csv", 100, 100)
    theirs = read_boxes(coco(tmp_path / "b.json", [[10, 20, 30, 40], [90, 0, 20, 10]]), 100, 100)
    np.testing.assert_allclose(ours.boxes, [[0.2, 0.1, 0.6, 0.4], [0, 0.9, 0.1, 1.0]])  # cut at the border
    np.testing.assert_allclose(ours.boxes, theirs.boxes)
    assert ours.names == ("cup", "object 1")


def test_the_boxes_of_one_picture_of_several(tmp_path):
    path = tmp_path / "b.json"
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    entries = [{"image_id": 1, "bbox": [0, 0, 5, 5]}, {"image_id": 2, "bbox": [0, 0, 9, 9]}]
    path.write_text(json.dumps({"images": images, "annotations": entries}))
    np.testing.assert_allclose(read_boxes(path, 10, 10, "b.jpg").boxes, [[0, 0, 0.9, 0.9]])
    with pytest.raises(InputError, match=r"2 pictures, none named c\.jpg"):
        read_boxes(path, 10, 10, "c.jpg")


@pytest.mark.parametrize(
    ("boxes", "message"),
    [([], "holds no boxes"), ([[0, 0, 0, 4]], "no part in the picture"), ([[200, 0, 9, 9]], "no part in the picture"),
     ([[1, 2, 3]], "expected a COCO JSON"), ([[1, 2, 3, "x"]], "expected a COCO JSON")],
)  # fmt: skip
def test_what_is_no_box_is_refused(tmp_path, boxes, message):
    with pytest.raises(InputError, match=message):
        read_boxes(coco(tmp_path / "b.json", boxes), 100, 100)


def test_of_several_boxes_the_smallest_of_equal_ones_the_first_and_outside_none():
    objects = Objects(
        np.array([[0, 0, 1, 0.9], [0.2, 0.2, 0.4, 0.4], [0.2, 0.2, 0.4, 0.4]]), ("all", "cup", "twin")
    )
    assert objects.holding((0.3, 0.3)) == 1
    assert objects.holding((0.6, 0.6)) == 0
    assert objects.holding((0.5, 0.95)) is None
    places = [(0.3, 0.3), (1.2, 0.3), (0.5, 0.95), (-0.1, 0.5), (0.6, 0.6), (np.nan, 0.5)]
    assert path_over(objects, places) == ([1, 0], 4)


@pytest.mark.parametrize("how", ["slic", "regions", "grid"])
def test_proposals_cover_the_picture_and_know_their_colour(how):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, :45, 0], pixels[:, 45:, 2] = 255, 255
    found = propose(Image.fromarray(pixels), how, 12)
    assert set(np.unique(found.labels)) == set(range(len(found.boxes)))
    scene = found.scene(np.asarray(Image.fromarray(pixels)))
    assert scene.features.shape == (len(found.boxes), len(NAMES))
    left = scene.places[:, 1] < 0.4
    right = scene.places[:, 1] > 0.6
    blue_to_yellow = scene.features[:, 2]
    assert left.any()
    assert right.any()
    assert blue_to_yellow[left].min() > 0.5 > -0.5 > blue_to_yellow[right].max()


def test_features_of_boxes_equal_those_of_labels():
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)
    labels = np.repeat([[0, 1]], 40, 0).repeat(20, 1)
    boxes = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1.0]])
    np.testing.assert_allclose(
        plain_features(pixels, labels, None), plain_features(pixels, None, boxes), atol=1e-6
    )
    with pytest.raises(InputError, match="one of the two"):
        plain_features(pixels, None, None)


def test_a_scene_without_objects_and_a_path_off_its_scene_are_refused():
    with pytest.raises(InputError, match="no objects"):
        Objects(np.zeros((0, 4)), ()).scene(None)
    with pytest.raises(InputError, match="without objects"):
        Scene(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 0)))
    with pytest.raises(InputError, match="target 6, expected a number from 0 to 5"):
        grid(2, 3, target=6)
    for path in ((), (6,), (-1,)):
        with pytest.raises(InputError, match="does not name objects"):
            Trial(grid(2, 3), path)


def write_sti(path):
    people = {"1": [[5, 5], [95, 55]], "2": []}
    one = {"fixations": people, "ground_truth": [{"xmin": 84, "xmax": 90, "ymin": 0, "ymax": 10}],
           "size": {"height": 60, "width": 140}, "target": "t.jpg"}  # fmt: skip
    path.write_text(json.dumps({"1.jpg": one}))


def test_each_form_of_file_is_read_as_parts_of_the_picture(tmp_path):
    from scipy.io import savemat

    search = [{"name": "a.jpg", "subject": 3, "task": "cup", "bbox": [168, 105, 168, 105], "X": [840.0], "Y": [525.0],
               "T": [200], "condition": "present"}]  # fmt: skip
    (tmp_path / "search.json").write_text(json.dumps(search))
    (tmp_path / "own.csv").write_text("picture,person,x,y,duration\na,1,50,10,250\na,1,100,20,\n")
    write_sti(tmp_path / "Amazon.json")
    subject = {
        "fix_x": np.array([400.0, 800]),
        "fix_y": np.array([300.0, 0]),
        "fix_duration": np.array([100, 200]),
    }
    savemat(
        tmp_path / "fixations.mat",
        {"fixations": np.array([{"img": "x.jpg", "subjects": np.array([subject, subject])}])},
    )
    (one,) = read_scanpaths(tmp_path / "search.json")
    np.testing.assert_allclose(one.places, [[0.5, 0.5]])
    np.testing.assert_allclose(one.box, [0.1, 0.1, 0.2, 0.2])
    assert (one.target, one.person, one.seconds.tolist()) == ("cup", "3", [0.2])
    (one,) = read_scanpaths(tmp_path / "own.csv", size=(100, 200))
    np.testing.assert_allclose(one.places, [[0.1, 0.25], [0.2, 0.5]])
    assert one.seconds[0] == 0.25
    assert np.isnan(one.seconds[1])
    (one,) = read_scanpaths(tmp_path / "Amazon.json")
    np.testing.assert_allclose(one.box, [0, 0.6, 10 / 60, 90 / 140])
    two = read_scanpaths(tmp_path / "fixations.mat")
    assert len(two) == 2
    np.testing.assert_allclose(two[0].places, [[0.5, 0.5], [0, 1]])
    ((name, trial),) = sti_trials(tmp_path / "Amazon.json")
    assert (name, trial.path, trial.scene.target) == ("1.jpg", (0, 5 * 14 + 9), 8)


def test_what_is_no_file_of_eye_movements_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "empty.csv").write_text("picture,person,x,y\n")
    for path, size, message in (("none.json", None, "no such file"), ("a.json", None, "no file of eye movements"),
                                ("a.csv", None, "does not say how large"), ("a.csv", (9, 9), "not of the form csv"),
                                ("empty.csv", (9, 9), "holds no scanpath"), ("", None, "holds neither")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_scanpaths(tmp_path / path, size=size)
