"""Rewrite requirements/core.lock and requirements/all.lock, and check that they resolve for every Python and platform.

    python scripts/lock.py [--upgrade] [--check]

Needs `uv` on the PATH; it resolves, pip installs. A version that is locked stays unless pyproject.toml forbids it or
`--upgrade` is given. torch is left out, because each machine needs another build of it: requirements/torch.txt pins its
version, and only what its CPU build needs is locked. `--check` writes nothing and fails if the files would change.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPOSITORY / "requirements"
CORE, ALL, TORCH = REQUIREMENTS / "core.lock", REQUIREMENTS / "all.lock", REQUIREMENTS / "torch.txt"
BESIDES = """
editables>=0.5
hatchling>=1.27
filelock
fsspec>=0.8.5
jinja2
networkx>=2.5.1
setuptools>=77.0.3
sympy>=1.13.3
typing-extensions>=4.10
"""
"""What builds the project, and what the CPU build of torch 2.13 requires. Other builds bring what they need besides."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
BUILT = {"rouge-score": PLATFORMS, "pytrec-eval-terrier": ("aarch64-unknown-linux-gnu",)}
"""Packages that have no wheel on some platforms: pip builds them there."""
OLDEST_MAC = "14.0"
"""torch has no wheel for older ones."""
HEADER = "# Written by scripts/lock.py for Python 3.11 to 3.14 on Linux, macOS and Windows; do not edit.\n"
_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)==", re.MULTILINE)


def main(argv: Sequence[str]) -> int:
    """Lock, then resolve against the lock as an installer would on each platform."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the files would change")
    options = parser.parse_args(argv)
    files = lock(upgrade=options.upgrade)
    changed = [path.name for path, text in files.items() if not path.is_file() or path.read_text() != text]
    if options.check and changed:
        sys.stdout.write(f"{' and '.join(changed)} would change: run python scripts/lock.py\n")
        return 1
    for path, text in files.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    check_platforms()
    return 0


def lock(*, upgrade: bool) -> Mapping[Path, str]:
    """Both files: the core's requirements with their hashes, and what the extra `dev` adds to them."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.txt"
        kept = [] if upgrade else [path for path in (CORE, ALL) if path.is_file()]
        whole.write_text("".join(path.read_text().replace("--requirement", "#") for path in kept))
        universal = ["--universal", "--python-version", PYTHONS[0], "--generate-hashes"]
        compile_project("--extra", "dev", *universal, "--output-file", str(whole))
        blocks = split(whole.read_text(encoding="utf-8"))
        core = _NAME.findall(compile_project(*universal, "--constraint", str(whole)))
    rest = [text for name, text in blocks.items() if name not in core]
    return {
        CORE: "".join([HEADER, *(blocks[name] for name in core)]),
        ALL: "".join([HEADER, f"--requirement {CORE.name}\n", *rest]),
    }


def split(text: str) -> Mapping[str, str]:
    """Each package's lines: the pinned version, and its hashes."""
    starts = [*_NAME.finditer(text)]
    ends = [*(start.start() for start in starts[1:]), len(text)]
    return {start[1]: text[start.start() : end] for start, end in zip(starts, ends, strict=True)}


def check_platforms() -> None:
    """Resolve for each Python and platform, from wheels but for `BUILT`, and print how many packages go there."""
    for python in PYTHONS:
        for platform in PLATFORMS:
            where = ["--python-version", python, "--python-platform", platform, "--only-binary", ":all:"]
            run_uv(str(TORCH), "--no-deps", *where)
            built = [option for name, on in BUILT.items() if platform in on for option in ("--no-binary", name)]
            found = compile_project("--extra", "dev", *where, *built, "--constraint", str(ALL))
            sys.stdout.write(f"Python {python}, {platform}: {len(_NAME.findall(found))} packages and torch\n")


def compile_project(*options: str) -> str:
    """What the project and torch need, without torch itself."""
    return run_uv("pyproject.toml", "-", "--excludes", str(TORCH), *options, given=BESIDES)


def run_uv(*options: str, given: str = "") -> str:
    """The requirements that uv prints. Its error, which it prints too, ends the program."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", *options]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": OLDEST_MAC}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, input=given, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
