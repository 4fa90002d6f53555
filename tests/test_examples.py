"""Each example runs as a user runs it, in a folder of its own, and says what it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import shared_data

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name, folder, **environment):
    """What the script printed; it has five minutes, several times what it needs."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def figures(text, pattern):
    """The numbers that `pattern` captures in the output."""
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in: {text}"
    return [float(value) for value in found.groups()]


def test_every_example_is_tested():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {
        "classes_2d.py",
        "first_steps.py",
        "microtubule.py",
        "microtubule_network.py",
        "simulated_cell.py",
        "simulated_microtubule.py",
        "unlabelled_mixture.py",
    }


def test_first_steps(tmp_path):
    text = run_example("first_steps.py", tmp_path)
    assert figures(text, r"recall: ([\d.]+)") == [1.0]
    assert figures(text, r"precision: ([\d.]+)") == [1.0]
    assert figures(text, r"angular error: ([\d.]+)")[0] < 3
    assert figures(text, r"shift error: ([\d.]+)")[0] < 0.5
    pictures = {path.stem for path in (tmp_path / "first_steps").glob("*.png")}
    assert pictures == {"scores", "tomogram", "average", "fsc"}


def test_classes_2d(tmp_path):
    text = run_example("classes_2d.py", tmp_path)
    before, after = figures(
        text, r"after 2 rounds: purity ([\d.]+) after \d+ rounds: purity ([\d.]+)"
    )
    assert after > 0.98
    assert before < after
    assert figures(text, r"K-means without alignment: purity ([\d.]+)")[0] < 0.6
    right, angle, shift = figures(
        text, r"mirror right ([\d.]+); median errors ([\d.]+)°, ([\d.]+) pixel"
    )
    assert right > 0.98
    assert angle < 1
    assert shift < 0.3
    kept, true, there, empty = figures(
        text, r"kept (\d+) of 60 picks: (\d+) particles of (\d+), (\d+) empty"
    )
    assert true == there
    assert kept == true + empty
    assert empty <= 2
    pictures = {path.stem for path in (tmp_path / "classes_2d").glob("*.png")}
    assert pictures == {"averages", "poses", "frc", "embedding", "cleaning"}
    assert (tmp_path / "classes_2d" / "kept.star").exists()


def test_microtubule(tmp_path):
    shared = shared_data("tomograms", "13pf_MT.tif").parents[1]
    text = run_example("microtubule.py", tmp_path, TOMODASK_SHARED=str(shared))
    # The blind search finds the tube, and the density by itself is the lattice of the textbook.
    assert figures(text, r"(\d+)% within 20 Å of one cylinder")[0] >= 90
    protofilaments, repeat, starts = figures(
        text, r"itself: (\d+) protofilaments, ([\d.]+) Å along each, and a helix of (\d+) starts"
    )
    assert (protofilaments, starts) == (13, 3)
    assert repeat == pytest.approx(41, abs=0.5)
    # The picks are on the wall, and on its sites.
    count, wall, sites, off = figures(
        text, r"(\d+) picks: ([\d.]+)% within 20 Å of the wall, (\d+)% .* ([\d.]+) Å off in"
    )
    assert count > 350
    assert wall > 97
    assert sites > 85
    assert off < 10.52
    assert figures(text, r"the picks: (\d+) protofilaments, ([\d.]+) Å") == pytest.approx(
        [13, 41], abs=0.5
    )
    # A template of another repeat does not impose it.
    assert figures(text, r"patch of 45 Å: .* a repeat of ([\d.]+) Å")[0] == pytest.approx(41, abs=1)
    # Monomers vote for one polarity, even those that were picked with the other.
    assert figures(text, r"aligned: (\d+)% as they were matched")[0] > 70
    assert figures(text, r"(\d+)% are aligned with")[0] > 60
    # What is averaged agrees, end with end and with the average that no template touched.
    assert figures(text, r"subunits, aligned \(\d+\): FSC of the ends 0.5 at (\d+) Å")[0] <= 25
    assert figures(text, r"sites, no template \(\d+\): FSC of the ends 0.5 at (\d+) Å")[0] <= 25
    assert figures(text, r"against the sites of the other: FSC 0.5 at (\d+) Å")[0] <= 26
    # So does noise that was aligned, but less: without it, the two would prove nothing.
    assert figures(text, r"off the tube, aligned \(\d+\): FSC of the ends 0.5 at (\d+) Å")[0] > 27
    pictures = {path.stem for path in (tmp_path / "microtubule").glob("*.png")}
    assert pictures == {"picks", "lattice", "average"}


def test_microtubule_network(tmp_path):
    shared = shared_data("tomograms", "13pf_MT.tif").parents[1]
    text = run_example("microtubule_network.py", tmp_path, TOMODASK_SHARED=str(shared))
    assert figures(text, r"(\d+) weak labels")[0] > 40
    # The mask of the end that was not learned from is on the wall, and not for its size.
    size, near, chance = figures(
        text, r"takes (\d+)% of the unseen end; (\d+)% .* \(by chance: (\d+)%\)"
    )
    assert 3 < size < 20
    assert near > 4 * chance
    assert near > figures(text, r"highest densities: (\d+)%")[0] + 20
    # It finds what it was shown: hardly a label lay on the diagonals.
    sides, above, diagonals = figures(
        text, r"sides (\d+)% .* above and below (\d+)% .* diagonals (\d+)%"
    )
    assert sides > 60
    assert sides > 2 * diagonals
    assert above > diagonals
    picks, on_wall, off = figures(
        text,
        r"network: (\d+) picks of the unseen end, (\d+)% .* Å of the wall, (\d+) Å off .* temp",
    )
    assert picks > 15
    assert on_wall > 60
    assert off < 21
    # Once trained, it costs a fraction of what matching does.
    segmentation, matching = figures(text, r"segmentation ([\d.]+), .* matching ([\d.]+)")
    assert segmentation < matching / 2
    folder = tmp_path / "microtubule_network"
    assert {path.stem for path in folder.glob("*.png")} == {"slices", "wall"}
    assert (folder / "wall.safetensors").exists()


def test_simulated_cell(tmp_path):
    text = run_example("simulated_cell.py", tmp_path)
    pattern = r"picked (\d+)% of the particles, (\d+)% of the picks are true"
    fine = figures(text, r"step 15° \(76 Å\): " + pattern)
    coarse = figures(text, r"step 20° \(97 Å\): " + pattern)
    assert fine[0] == 100
    assert fine[1] >= 75
    assert coarse[0] < fine[0]
    # The scores of alignment tell decoys from particles.
    below, above = figures(text, r"record: scores of alignment up to ([\d.]+) and from ([\d.]+)")
    assert above > 1.5 * below
    pattern = r"precision ([\d.]+), errors ([\d.]+)°, ([\d.]+) voxel; .* 0.5 at ([\d.]+) Å"
    known, range_only = text.split(" range only: scores of alignment")
    precision, angle, shift, resolution = figures(known, r"recall 1.00, " + pattern)
    assert precision == 1
    assert angle < 1
    assert shift < 0.2
    assert resolution < 31
    # What the record is worth.
    _, angle_blind, shift_blind, resolution_blind = figures(range_only, pattern)
    assert angle_blind > 2 * angle
    assert shift_blind > 2 * shift
    assert resolution_blind > resolution
    assert (tmp_path / "simulated_cell" / "cell.png").stat().st_size > 20_000


def test_simulated_microtubule(tmp_path):
    shared = shared_data("tomograms", "13pf_MT.tif").parents[1]
    text = run_example("simulated_microtubule.py", tmp_path, TOMODASK_SHARED=str(shared))
    # The lattice that was put in comes out, where it was put, as strong as the real one's.
    pattern = r"wall ([\d.]+), .*? at ([\d.]+) Å, height ([\d.]+), (\d+) times .*? order (\d+),"
    real = figures(text, r"none beyond .*? real: " + pattern)
    simulated = figures(text, r"simulated: " + pattern)
    for wall, repeat, _, contrast, order in (real, simulated):
        assert wall > 0.5
        assert repeat == pytest.approx(41, abs=0.3)
        assert contrast > 10
        assert order == 13
    assert simulated[0] == pytest.approx(real[0], rel=0.25)
    assert 0.5 < simulated[2] / real[2] < 2
    assert max(figures(text, r"differ by (\d+)° .* and (\d+)°")) < 60
    pictures = {path.stem for path in (tmp_path / "simulated_microtubule").glob("*.png")}
    assert pictures == {"slices", "spectra"}


def test_unlabelled_mixture(tmp_path):
    text = run_example("unlabelled_mixture.py", tmp_path)
    precision, recall = figures(text, r"precision ([\d.]+), recall ([\d.]+)")
    assert precision > 0.8
    assert recall > 0.9
    assert figures(text, r"structures that came back: (\d) of 3") == [3]
    # The largest three clusters are of a kind each, at about two voxels.
    for cluster in range(3):
        own, true = figures(text, rf"cluster {cluster}: .*? 0.143 at (\d+) Å; .*? 0.5 at (\d+) Å")
        assert own < 45
        assert true < 45
    assert (tmp_path / "unlabelled_mixture" / "mixture.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    "name", ["microtubule.py", "microtubule_network.py", "simulated_microtubule.py"]
)
def test_what_data_is_missing_is_said(tmp_path, name):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path,
        env={**os.environ, "TOMODASK_SHARED": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "set TOMODASK_SHARED" in done.stderr
    assert "Traceback" not in done.stderr
