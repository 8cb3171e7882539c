"""Each prints a ratio against a named peer, or the share of a bound that is reached."""

import os
import sys

_RUN = any(argument.startswith("benchmarks.") for argument in sys.orig_argv[1:3])
if _RUN and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    # As launch.py does, and for both sides: large pages for malloc, read at a program's start.
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
