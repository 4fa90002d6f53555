"""Images of a tilt series: the graph, its bits, and what is refused."""

import dask
import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
from helpers import irregular_chunks
from hypothesis import given, settings
from simulation.tilt_images import PERFECT, as_volume, images, never_compute, noise, smooth

from tomodask.errors import InputError
from tomodask.simulation.detector import sinc_detector
from tomodask.simulation.imaging import signal_variance, simulate_tilt_series
from tomodask.simulation.microscope import Beads, Microscope, Motion
from tomodask.simulation.projections import project_volume
from tomodask.simulation.tilt_schemes import tilt_scheme

# --- the graph ----------------------------------------------------------------------------------

EVERYTHING = {
    "microscope": Microscope(astigmatism=500.0, b_factor=50.0),
    "motion": Motion(10.0, 1.0),
    "detector": sinc_detector(shaped_noise=True),
    "seed": 3,
}


@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_chunks_and_workers_never_change_an_image(data):
    shape = (10, 70, 24)
    volume, scheme = noise(shape), tilt_scheme((-40, 40), 20, dose=50.0)
    options = {**EVERYTHING, **data.draw(st.sampled_from([{"snr": 0.1}, {"shot_noise": True}]))}
    chunks = data.draw(irregular_chunks(shape))
    with dask.config.set(scheduler="synchronous"):
        want = simulate_tilt_series(as_volume(volume, chunks=-1), scheme=scheme, **options)
        want = want.to_numpy()
    with dask.config.set(scheduler="threads", num_workers=2):
        got = simulate_tilt_series(as_volume(volume, chunks=chunks), scheme=scheme, **options)
        np.testing.assert_array_equal(got.to_numpy(), want)


def test_projections_of_a_store_give_the_same_bytes(tmp_path):
    scheme = tilt_scheme((-40, 40), 20, dose=50.0)
    volume = as_volume(noise((10, 40, 24)))
    want = simulate_tilt_series(volume, scheme=scheme, snr=0.2, **EVERYTHING)
    kept = project_volume(volume, scheme["angle"])
    kept.data.rechunk((2, 20, 24)).to_zarr(str(tmp_path / "p.zarr"))
    opened = kept.copy(data=da.from_zarr(str(tmp_path / "p.zarr")))
    variance = float(signal_variance(opened, scheme=scheme, **EVERYTHING).compute())
    got = simulate_tilt_series(opened, scheme=scheme, snr=0.2, variance=variance, **EVERYTHING)
    np.testing.assert_array_equal(got.to_numpy(), want.to_numpy())


@pytest.mark.parametrize("stream", [0, 1, 2, 3])
def test_noise_knows_nothing_of_what_was_drawn_to_pack(stream):
    scheme = tilt_scheme((-4, 4), 2.0)
    clean = as_volume(smooth((8, 24, 32)))
    added = images(clean, scheme, snr=1e-4, seed=3) - images(clean, scheme)
    drawn = np.random.default_rng([3, stream]).standard_normal((24, 32), dtype=np.float32)
    for image in added:
        assert abs(np.corrcoef(image.ravel(), drawn.ravel())[0, 1]) < 0.2


def test_seeds_and_tilts_have_noise_of_their_own():
    scheme = tilt_scheme((-20, 20), 20)
    volume = as_volume(smooth((8, 64, 64)))
    clean = images(volume, scheme)
    a = images(volume, scheme, snr=0.01, seed=1) - clean
    b = images(volume, scheme, snr=0.01, seed=2) - clean
    for one, other in [(a[0], a[1]), (a[0], a[2]), (a[0], b[0])]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.06
    np.testing.assert_array_equal(images(volume, scheme, snr=0.01, seed=1) - clean, a)


def test_builds_a_graph_of_one_chunk_an_image_and_computes_nothing():
    scheme = tilt_scheme((-20, 20), 10, dose=30.0)
    with dask.config.set(scheduler=never_compute):
        series = simulate_tilt_series(
            as_volume(noise((8, 24, 32))), scheme=scheme, snr=0.1, **EVERYTHING
        )
    assert series.dims == ("tilt", "y", "x")
    assert series.dtype == np.float32
    assert series.data.chunks == ((1,) * 5, (24,), (32,))
    assert series.name == "volume"
    assert {"angle", "order", "exposure", "pre_exposure", "defocus_u"} <= set(series.coords)
    np.testing.assert_array_equal(series["angle"], scheme["angle"])
    for key, value in {"pixel_size": 10.0, "voltage": 300.0, "handedness": -1}.items():
        assert series.attrs[key] == value


def test_a_projection_reads_each_chunk_of_the_volume_once():
    reads = []

    def read(block, block_info=None):
        reads.append(block_info[0]["chunk-location"])
        return block

    data = da.zeros((8, 128, 16), chunks=(4, 64, 8), dtype=np.float32).map_blocks(
        read, meta=np.empty((0, 0, 0), np.float32)
    )
    volume = xr.DataArray(data, dims=("z", "y", "x"), attrs={"voxel_size": 5.0})
    with dask.config.set(scheduler="synchronous"):
        project_volume(volume, np.arange(-60, 61, 3.0)).compute()
    assert sorted(reads) == sorted(set(reads))
    assert len(reads) == 8


# --- what is refused ----------------------------------------------------------------------------


def refused(message, *, volume=None, **keywords):
    volume = as_volume(noise((4, 8, 8))) if volume is None else volume
    keywords = {"scheme": tilt_scheme((-3, 3), 3), "microscope": PERFECT, **keywords}
    with (
        dask.config.set(scheduler=never_compute),
        pytest.raises(InputError, match=message),
    ):
        simulate_tilt_series(volume, **keywords)


def test_refuses_values():
    refused(r"snr must be above 0, got -1", snr=-1.0)
    refused(r"snr and shot_noise exclude each other", snr=1.0, shot_noise=True)
    refused(r"shot_noise needs the column exposure .* tilt_scheme\(dose=…\)", shot_noise=True)
    refused(r"variance must be above 0, got 0", snr=1.0, variance=0.0)
    refused(r"seed must be a whole number, at least 0, got -1", seed=-1)
    refused(r"pixels of 10 Å are finer", detector=sinc_detector(pixel_size=12.0))
    scheme = tilt_scheme((-3, 3), 3)
    refused(r"scheme needs the columns angle and order, got angle", scheme=scheme[["angle"]])
    refused(r"order of scheme must be whole numbers", scheme=scheme.assign(order=1))
    refused(r"exposure of scheme must be above 0 e/Å², got 0", scheme=scheme.assign(exposure=0.0))
    refused(r"angles must lie within ±85", scheme=scheme.assign(angle=[-88.0, 0, 88]))


def test_refuses_angles_that_do_not_match():
    kept = project_volume(as_volume(noise((4, 8, 8))), [-3.0, 0.0, 3.0])
    refused(
        r"scheme has 5 tilts and projections have 3", volume=kept, scheme=tilt_scheme((-4, 4), 2)
    )
    refused(r"tilt 0 is at -2 and -3 degrees", volume=kept, scheme=tilt_scheme((-2, 2), 2))


def test_refuses_what_is_no_volume():
    bare = as_volume(noise((4, 8, 8)))
    refused(r"volume needs the attribute voxel_size", volume=bare.drop_attrs())
    refused(r"projections must have the dims", volume=bare.rename(z="w"))
    with pytest.raises(InputError, match=r"slabs must be 1 to 4"):
        project_volume(bare, [0.0], slabs=5)
    with pytest.raises(InputError, match=r"angles must be a list of degrees"):
        project_volume(bare, [])
    kept = project_volume(bare, [-3.0, 0.0, 3.0])
    del kept.attrs["volume_shape"]
    refused(
        r"lack the attribute volume_shape", volume=kept, beads=Beads(((0, 0, 0),), 50.0), snr=1.0
    )


def test_an_empty_specimen_has_no_snr():
    with pytest.raises(InputError, match="there is no signal"):
        images(as_volume(np.zeros((4, 8, 8))), tilt_scheme((-3, 3), 3), snr=1.0)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"voltage": 300_000.0}, r"voltage must be in kV, 10 to 3000, got 300000"),
        ({"defocus": 4.0}, r"defocus must be in Å, got 4; for µm write defocus=40000"),
        ({"amplitude_contrast": 7.0}, r"amplitude_contrast must be between 0 and 1, got 7"),
        ({"spherical_aberration": -1.0}, r"spherical_aberration must be in mm"),
        ({"b_factor": -5.0}, r"b_factor must not be negative"),
        ({"handedness": 0}, r"handedness must be -1 or 1, got 0"),
        ({"phase_shift": float("nan")}, r"phase_shift of the microscope must be a finite number"),
    ],
)
def test_refuses_microscopes(keywords, message):
    with pytest.raises(InputError, match=message):
        Microscope(**keywords)


def test_refuses_motions_and_beads():
    with pytest.raises(InputError, match=r"shift of the motion must be at least 0 Å, got -1"):
        Motion(shift=-1.0)
    with pytest.raises(InputError, match=r"rotation of the motion must be 0 to 20 degrees"):
        Motion(rotation=30.0)
    with pytest.raises(InputError, match=r"rows \(z, y, x\)"):
        Beads(((1.0, 2.0),), 50.0)
    with pytest.raises(InputError, match=r"diameter above 0 Å, got 0"):
        Beads((), 0.0)
