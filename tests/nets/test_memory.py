"""What a step of training frees is there for the next one."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from tomodask.nets.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        held = [b"x" * (20 << 20) for _ in range(8)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def faults(how, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES" and "MALLOC" not in k}
    out = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(out.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of another C library")
def test_pages_are_taken_once():
    assert faults("keep") < 100 < faults("leave")
    # What the environment says goes before.
    assert faults("keep", MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536") > 100
