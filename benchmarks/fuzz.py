"""Runs the property tests for minutes instead of seconds, in rounds with new examples.

    python benchmarks/fuzz.py [--minutes 10] [--only tests/capture/test_middleware_properties.py ...]

It ends at the first failure, with the exit code 1. Hypothesis keeps the failing example, so the normal tests fail with
it too until the fault is fixed.
"""

import argparse
import re
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PASSED = re.compile(r"(\d+) passed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no further round begins")
    parser.add_argument("--profile", default="fuzz", help="of hypothesis: how many examples a round has")
    parser.add_argument("--only", nargs="+", default=["tests"], metavar="TEST", help="a file, or one of its tests")
    options = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "hypothesis"]
    began = time.monotonic()
    for number in count(1):
        done = subprocess.run(
            [*command, "--hypothesis-profile", options.profile, *options.only],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        passed = PASSED.search(done.stdout)
        minutes = (time.monotonic() - began) / 60
        if done.returncode or passed is None:
            sys.exit(f"{done.stdout}{done.stderr}\nround {number}, after {minutes:.1f} minutes: see above")
        print(f"round {number}: {passed[1]} properties held, {minutes:.1f} minutes", flush=True)
        if minutes >= options.minutes:
            break


if __name__ == "__main__":
    main()
