"""Which measurements were made on one test set: its images may have been read at any size."""

import json
import shutil
from pathlib import Path

import pytest

from reports.analysis.comparison import compare
from reports.analysis.rows import rows_of
from rundir.read import read_runs
from tests.reports.factory import write_run


def measured_at(directory, size: int, source: str | None, fingerprint: str | None = None, **options):
    """A run whose images were read at a size. Fingerprints are of pixels, and so follow the size."""
    run = write_run(directory, images=60, options={"image_size": size}, **options)
    for file in (run / "results").glob("*.json"):
        entries = json.loads(file.read_text())
        for entry in entries:
            entry["protocol"]["image_size"] = size
            for split in ("train", "test"):
                about = entry["data"][split]
                about["fingerprint"] = f"{fingerprint or split}-{size}"
                if source is not None:
                    about["source"] = f"{source}-{split}"
        file.write_text(json.dumps(entries))
    return run


def compared(*runs):
    return compare(rows_of(read_runs(runs)[0]))


def test_rows_at_two_sizes_are_compared_tested_and_marked(tmp_path):
    runs = [measured_at(tmp_path / str(size), size, "photos") for size in (96, 224)]
    (comparison,) = compared(*runs)
    assert len(comparison.rows) == 2 and comparison.tested == len(comparison.headline) > 0
    assert comparison.unequal_settings == ["input"]
    for names in comparison.unequal_protocols.values():
        assert names == ["image_size"]  # the training images are the same, though their pixels are not


def test_other_files_are_another_test_set_whatever_their_pixels(tmp_path):
    runs = [measured_at(tmp_path / name, 96, name, "same", seed=seed) for seed, name in enumerate("ab")]
    assert len(compared(*runs)) == 2


@pytest.mark.parametrize("newer", ["photos", None])
def test_measurements_made_before_are_known_by_their_pixels(tmp_path, newer):
    runs = [
        measured_at(tmp_path / "old", 96, None),
        measured_at(tmp_path / "new", 96, newer, method="barlow_twins"),
        measured_at(tmp_path / "large", 224, newer),
    ]
    comparisons = compared(*runs)
    if newer is None:
        assert [len(comparison.rows) for comparison in comparisons] == [2, 1]
    else:  # the row with the same pixels as the old one says where they are from
        assert [len(comparison.rows) for comparison in comparisons] == [3]


def test_a_run_measured_at_two_sizes_has_columns_of_both_each_tested(tmp_path):
    runs = []
    for method in ("dino", "barlow_twins"):
        run = measured_at(tmp_path / method, 96, "photos", method=method)
        other = measured_at(tmp_path / "more" / method, 224, "photos", method=method)
        for file in (run / "results").glob("*.json"):
            more = json.loads((other / "results" / file.name).read_text())
            for entry in more:
                predictions = Path(entry["predictions"])
                entry["predictions"] = f"predictions/large-{predictions.name}"
                shutil.copy(other / predictions, run / entry["predictions"])
            file.write_text(json.dumps(json.loads(file.read_text()) + more))
        runs.append(run)
    (comparison,) = compared(*runs)
    names = [comparison.columns[column].metric_name for column in comparison.headline]
    assert [name for name in names if "224" in name] and len(names) == 4 and comparison.tested == 4
