"""glibc keeps freed memory: counted are the new pages of 64 MiB that were allocated and freed once before."""

import os
import subprocess
import sys

import pytest
import torch

from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES, keep_freed_memory

NEW_PAGES = """
import ctypes, resource, sys
from medmixers.bundle_runtime.allocator import keep_freed_memory
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
kept = keep_freed_memory(sys.argv[1]) if sys.argv[1:] else None
def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = library.malloc(2**26)
    ctypes.memset(memory, 1, 2**26)
    library.free(ctypes.c_void_p(memory))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
new_pages()
print(kept, new_pages())
"""


def new_pages(*device, **variables):
    """What the function said, and the number of pages."""
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    command = [sys.executable, "-c", NEW_PAGES, *device]
    done = subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, check=True)
    said, pages = done.stdout.split()
    return said, int(pages)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept_on_a_cpu_only():
    fresh = new_pages()[1]
    assert fresh > 30  # in pages of 2 MiB, and far more in pages of 4 KiB
    said, pages = new_pages("cpu")
    assert said == "True"
    assert pages < fresh / 10
    assert new_pages("cuda:0") == ("False", pytest.approx(fresh, rel=0.2))
    said, pages = new_pages("cpu", MALLOC_MMAP_MAX_="65536")  # glibc's default: who sets a variable decides
    assert said == "False"
    assert pages > fresh / 2
    assert new_pages(**ALLOCATOR_VARIABLES)[1] < fresh / 10  # the same from outside


def test_devices_are_named_or_objects(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: type("Library", (), {"mallopt": staticmethod(lambda *_: 1)}))
    for device, kept in (("cpu", True), (torch.device("cpu"), True), (torch.device("cuda", 1), False), ("mps", False)):
        assert keep_freed_memory(device, environment={}) is (kept and sys.platform == "linux")
