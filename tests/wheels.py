"""`python -m tests.wheels` says whether every package of the extra `edge` has a wheel for other processors.

For ARM64 by default: pip is asked, as on such a machine, for the versions of deploy/constraints.txt, and where those
have no wheel for a version of Python, for any that pyproject.toml allows. Nothing is installed. Ends with 1 where a
wheel is missing that is not known to be, or one is there that is said to be missing (docs/cameras.md).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from packaging.utils import canonicalize_name

from tests.constraints import FILE, installed, pins, requirements

PYTHONS = ("3.11", "3.12", "3.13")
GLIBC = ("2_17", "2_24", "2_26", "2_27", "2_28")  # 2.28 is that of Debian 10 and RHEL 8
MACHINE = "aarch64"
BUILT_FROM_SOURCE = frozenset({"constriction"})  # on ARM64


def wanted() -> dict[str, str]:
    """Name -> version of all that the extra `edge` brings, by the constraints."""
    pinned = pins(FILE.read_text())
    return {name: pinned[name] for name in sorted(installed(requirements("edge")))}


def platforms(machine: str) -> list[str]:
    """What pip calls the Linux machines whose wheels count."""
    return [*(f"manylinux_{version}_{machine}" for version in GLIBC), f"manylinux2014_{machine}"]


def command(package: str, python: str, machine: str, folder: str) -> list[str]:
    """How pip is asked for the wheel of a package, with its version or bounds, without installing it."""
    chosen = [flag for platform in platforms(machine) for flag in ("--platform", platform)]
    target = ("--target", folder, "--python-version", python, "--implementation", "cp")
    quiet = ("--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--report", "-")
    return [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-deps",
        *target,
        *chosen,
        *quiet,
        package,
    ]


def wheels(report: str) -> dict[str, str]:
    """Name -> file of the wheels in pip's report."""
    return {
        canonicalize_name(one["metadata"]["name"]): one["download_info"]["url"].rpartition("/")[2]
        for one in json.loads(report)["install"]
    }


def look(python: str, machine: str) -> dict[str, str | None]:
    """The wheel of each package; None where there is none."""
    allowed = {canonicalize_name(one.name): str(one.specifier) for one in requirements("edge")}
    found: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, version in wanted().items():
            for bounds in (f"=={version}", allowed.get(name)):
                if bounds is None or found.get(name) is not None:
                    continue
                asked = command(f"{name}{bounds}", python, machine, folder)
                done = subprocess.run(asked, capture_output=True, text=True, check=False)
                found[name] = wheels(done.stdout).get(name) if done.returncode == 0 else None
    return found


def verdict(found: dict[str, str | None], machine: str) -> list[str]:
    """What is wrong with what was found: nothing where the page that users read is right."""
    known = BUILT_FROM_SOURCE if machine == MACHINE else frozenset()
    lines = [f"{name} has no wheel" for name, file in found.items() if file is None and name not in known]
    return lines + [
        f"{name} has a wheel by now: say so" for name in sorted(known) if found.get(name) is not None
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m tests.wheels", description=about)
    parser.add_argument(
        "--machine", default=MACHINE, help="processor, as `uname -m` calls it (default: aarch64)"
    )
    parser.add_argument("--python", action="append", choices=PYTHONS, help="default: all of them")
    args = parser.parse_args(arguments)
    wrong: list[str] = []
    for python in args.python or PYTHONS:
        found = look(python, args.machine)
        for name, file in found.items():
            print(f"{python}  {name:18} {file or 'from source'}")
        wrong += [f"Python {python}, {args.machine}: {line}" for line in verdict(found, args.machine)]
    print("\n".join(wrong) or f"{args.machine}: as documented")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
