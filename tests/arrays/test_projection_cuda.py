"""The CUDA source, compiled for the CPU where there is no GPU, against the NumPy kernels."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from tomodask.arrays import projection
from tomodask.arrays.gridding import BETA, WIDTH
from tomodask.arrays.projection_cuda import SOURCE

ANGLES = np.array([-60.0, -13.0, 0.0, 40.0, 90.0])

#: A grid of threads as loops: what the source needs of CUDA, and no more.
HOST = """
#include <cmath>
#include <algorithm>
using std::max; using std::min;
#define __device__
#define __global__ static
struct Index { long long x; };
static Index blockIdx, blockDim, threadIdx;
%(source)s
extern "C" void run_project(long long count, const float* volume, int nz, int ny, int nx,
    const double* c, const double* s, int tilts, double cz, double cx, double middle, int samples,
    float* out) {
    blockDim.x = 32;
    for (long long i = 0; i < (count + 31) / 32 * 32; ++i) {
        blockIdx.x = i / 32; threadIdx.x = i %% 32;
        project(volume, nz, ny, nx, c, s, tilts, cz, cx, middle, samples, out);
    }
}
extern "C" void run_back_project(long long count, const float* fine, int tilts, int ny,
    int samples, int first, const double* c, const double* s, const float* w, const double* zs,
    const double* xs, int nz, int nx, double middle, float* out) {
    blockDim.x = 32;
    for (long long i = 0; i < (count + 31) / 32 * 32; ++i) {
        blockIdx.x = i / 32; threadIdx.x = i %% 32;
        back_project(fine, tilts, ny, samples, first, c, s, w, zs, xs, nz, nx, middle, out);
    }
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: the CUDA source is not compiled")
    folder = tmp_path_factory.mktemp("cuda")
    source = f"#define WIDTH {WIDTH}\n#define BETA {BETA}f\n" + SOURCE.replace('extern "C" ', "")
    (folder / "host.cpp").write_text(HOST % {"source": source})
    made = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", folder / "host.so", folder / "host.cpp"],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    return ctypes.CDLL(str(folder / "host.so"))


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def test_project(library, monkeypatch):
    volume = np.random.default_rng(0).normal(size=(11, 5, 17)).astype(np.float32)
    wanted = projection.project(volume, ANGLES, width=20, center_z=4.5)

    def project_cuda(volume, cosines, sines, cz, cx, middle, samples):
        nz, ny, nx = volume.shape
        out = np.full((len(cosines), ny, samples), np.nan, np.float32)
        library.run_project(
            ctypes.c_longlong(out.size), pointer(volume), nz, ny, nx, pointer(cosines),
            pointer(sines), len(cosines), ctypes.c_double(cz), ctypes.c_double(cx),
            ctypes.c_double(middle), samples, pointer(out),
        )  # fmt: skip
        return out

    monkeypatch.setattr(projection, "is_cupy", lambda array: True)
    monkeypatch.setattr("tomodask.arrays.projection_cuda.project_cuda", project_cuda)
    got = projection.project(volume, ANGLES, width=20, center_z=4.5)
    assert np.abs(got - wanted).max() < 2e-5 * np.abs(wanted).max()


def test_back_project(library, monkeypatch):
    rng = np.random.default_rng(1)
    fine = rng.normal(size=(len(ANGLES), 4, 33)).astype(np.float32)
    zs, xs, weights = np.arange(-4, 5.0), np.arange(-6.5, 6), rng.uniform(size=len(ANGLES))
    wanted = projection.back_project(fine, ANGLES, zs, xs, width=40, weights=weights, first=20)

    def back_project_cuda(fine, first, cosines, sines, weights, zs, xs, middle):
        tilts, ny, samples = fine.shape
        out = np.full((len(zs), ny, len(xs)), np.nan, np.float32)
        library.run_back_project(
            ctypes.c_longlong(out.size), pointer(fine), tilts, ny, samples, first,
            pointer(cosines), pointer(sines), pointer(weights), pointer(zs), pointer(xs),
            len(zs), len(xs), ctypes.c_double(middle), pointer(out),
        )  # fmt: skip
        return out

    monkeypatch.setattr(projection, "is_cupy", lambda array: True)
    monkeypatch.setattr("tomodask.arrays.projection_cuda.back_project_cuda", back_project_cuda)
    got = projection.back_project(fine, ANGLES, zs, xs, width=40, weights=weights, first=20)
    assert np.abs(wanted).max() > 1
    assert np.abs(got - wanted).max() < 2e-5 * np.abs(wanted).max()


def test_nvcc_compiles_it(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: the CUDA source is not compiled for a GPU")
    path = tmp_path / "kernels.cu"
    path.write_text(f"#define WIDTH {WIDTH}\n#define BETA {BETA}f\n" + SOURCE)
    made = subprocess.run(
        [nvcc, "-ptx", "-o", tmp_path / "kernels.ptx", path], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert ".entry project" in (tmp_path / "kernels.ptx").read_text()


def test_on_a_gpu():
    cupy = pytest.importorskip("cupy", reason="no CuPy: nothing is run on a GPU")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU: nothing is run on one")
    volume = np.random.default_rng(0).normal(size=(21, 5, 37)).astype(np.float32)
    wanted = projection.project(volume, ANGLES)
    got = projection.project(cupy.asarray(volume), ANGLES)
    assert np.abs(got.get() - wanted).max() < 2e-5 * np.abs(wanted).max()
    zs, xs = np.arange(21) - 10, np.arange(37) - 18
    wanted = projection.back_project(projection.fine_rows(wanted), ANGLES, zs, xs)
    got = projection.back_project(projection.fine_rows(got), ANGLES, zs, xs)
    assert np.abs(got.get() - wanted).max() < 5e-5 * np.abs(wanted).max()
