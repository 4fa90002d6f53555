import pytest

from tomodask.errors import InputError
from tomodask.simulation.settings import KindSettings, SimulationSettings, read_settings

PARTICLES = {"particles": [{"structure": "phantom", "copies": 3}]}


def test_defaults_and_round_trip():
    settings = SimulationSettings.from_mapping(PARTICLES)
    assert settings.specimen.shape == (200, 512, 512)
    assert settings.particles[0].copies == 3
    assert SimulationSettings.from_mapping(settings.to_mapping()) == settings


def test_a_file_names_structures_from_its_folder(tmp_path):
    path = tmp_path / "cell.toml"
    path.write_text(
        "seed = 4\n[specimen]\nshape = [32, 64, 64]\nvoxel_size = 8\noccupancy = 0.2\n"
        '[[particles]]\nstructure = "1mnf.pdb.gz"\n[[particles]]\nstructure = "phantom"\n'
        "[microscope]\ndefocus = 30000\n"
    )
    settings = read_settings(path)
    assert settings.seed == 4
    assert settings.specimen.voxel_size == 8.0
    assert isinstance(settings.specimen.voxel_size, float)
    assert settings.particles[0].structure == str(tmp_path / "1mnf.pdb.gz")
    assert settings.particles[1].structure == "phantom"
    assert settings.microscope.defocus == 30000.0


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"specimens": {}}, "unknown key specimens; did you mean specimen?"),
        ({"microscope": {"defcus": 3}}, "microscope.defcus; did you mean microscope.defocus?"),
        ({"defocus": 3.0}, "unknown key defocus; did you mean microscope.defocus?"),
        ({"particles": [{"structur": "a"}]}, r"particles\[0\].structur; did you mean"),
        ({"particles": [{"copies": 1}]}, r"particles\[0\].structure is missing"),
        ({"particles": [{"structure": "a.pdb"}]}, r"particles\[0\].copies is missing"),
        ({"particles": []}, "nothing to simulate"),
        ({"specimen": {"shape": [10, 20]}}, "specimen.shape must have 3 values, got 2"),
        ({"specimen": {"shape": [64, 64, 1.5]}}, "specimen.shape must be a whole number"),
        ({"specimen": {"shape": [64, 64, 3]}}, "specimen.shape must be at least 16, got 3"),
        ({"specimen": {"voxel_size": 0}}, "specimen.voxel_size must be above 0, got 0"),
        ({"specimen": {"voxel_size": "10"}}, "specimen.voxel_size must be a number, got '10'"),
        ({"specimen": {"resolution": 12.0}}, "at least two voxels, 20 Å, got 12"),
        ({"tilts": {"order": "dose-symetric"}}, "did you mean dose-symmetric"),
        ({"tilts": {"range": [60, -60]}}, r"tilts.range must be \(least, largest\)"),
        ({"tilts": {"range": [-89, 89]}}, "tilts.range must be .* within ±85 degrees"),
        ({"tilts": {"start": 70.0}}, "tilts.start must lie within"),
        ({"tilts": {"increment": 200.0}}, "tilts hold one image, at 0°, a tomogram needs two"),
        ({"reconstruction": {"dose_weight": True}}, "dose_weight needs radiation damage"),
        ({"specimen": {"occupancy": 25}}, "specimen.occupancy must be below 1, got 25"),
        ({"detector": {"mtf": "a.star"}}, "need each other, got model = 'ideal'"),
        ({"seed": 10**400}, "seed must be a whole number"),
        ({"specimen": {"voxel_size": 10**400}}, "voxel_size must be a number"),
        ({"tilts": {"defocus": 3.0}}, "tilts.defocus; did you mean microscope.defocus?"),
        ({"copies": 3}, "unknown key copies; did you mean particles.copies?"),
        ({"number": 3}, "did you mean vesicles.number or beads.number?"),
        ({"noise": {"seed": 3}}, "unknown key noise.seed; did you mean seed?"),
        ({"particles": {"structure": "phantom"}}, r"a list of tables, each \[\[particles\]\]"),
        ({"particles": [{"structure": "phantom", "copies": 0}]}, "nothing to simulate"),
        ({"particles": [{"structure": "a.pdb", "name": "a/b", "copies": 1}]}, "no quotes, slashes"),
        ({"particles": [{"structure": "a.pdb", "name": "bead", "copies": 1}]}, "may not be"),
        ({"name": ""}, "name must be one that files"),
        ({"name": "../a"}, "name must be one that files"),
        ({"noise": {"snr": float("nan")}}, "noise.snr must be a number"),
        ({"noise": {"damage": 1}}, "noise.damage must be true or false"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"microscope": 300}, r"microscope must be a table, \[microscope\]"),
        ({"detector": {"model": "file"}}, "detector.mtf, a STAR of an MTF, need each other"),
        ({"vesicles": {"radius": [400, 300]}}, "vesicles.radius must rise"),
    ],
)
def test_what_makes_no_sense_is_named(table, told):
    with pytest.raises(InputError, match=told):
        SimulationSettings.from_mapping(PARTICLES | table)


def test_two_kinds_of_one_name():
    kinds = [{"structure": "a/1mnf.pdb", "copies": 1}, {"structure": "b/1mnf.cif", "copies": 1}]
    with pytest.raises(InputError, match="two kinds of particles are named 1mnf"):
        SimulationSettings.from_mapping({"particles": kinds})


def test_a_mark_before_the_text_does_no_harm(tmp_path):
    text = '[[particles]]\nstructure = "phantom"\ncopies = 3\n'
    (tmp_path / "cell.toml").write_text(text, encoding="utf-8-sig")
    assert read_settings(tmp_path / "cell.toml") == SimulationSettings.from_mapping(PARTICLES)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none.toml cannot be read"):
        read_settings(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = = 3")
    with pytest.raises(InputError, match=r"bad.toml is no TOML"):
        read_settings(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_settings(tmp_path / "bad.toml")


def test_copies_are_of_all_kinds_or_none():
    kinds = [{"structure": "a.pdb", "copies": 4}, {"structure": "b.pdb"}]
    full = {"specimen": {"occupancy": 0.2}}
    with pytest.raises(InputError, match=r"particles\[1\].copies is missing; give it for all"):
        SimulationSettings.from_mapping({"particles": kinds} | full)
    assert SimulationSettings.from_mapping({"particles": kinds[1:]} | full)
    with pytest.raises(InputError, match=r"particles\[1\].copies is missing"):
        SimulationSettings(
            particles=(KindSettings(structure="a.pdb", copies=4), KindSettings(structure="b.pdb"))
        )


def test_a_folder_that_begins_like_the_phantom(tmp_path):
    (tmp_path / "cell.toml").write_text('[[particles]]\nstructure = "phantoms/a.pdb"\ncopies = 1\n')
    found = read_settings(tmp_path / "cell.toml").particles[0].structure
    assert found == str(tmp_path / "phantoms" / "a.pdb")
