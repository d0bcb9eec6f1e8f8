"""Runs the sections of `benchmarks.lifecycle`: the modules beside this one."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks.lifecycle


def sections() -> dict[str, str]:
    """Each section's name and the first line of what it says of itself."""
    names = sorted(found.name for found in pkgutil.iter_modules(benchmarks.lifecycle.__path__) if found.name[0] != "_")
    return {name: (_module(name).__doc__ or "").strip().splitlines()[0] for name in names}


def main() -> None:
    """Run the section that the first argument names, with the other arguments; without one, all of them."""
    known = sections()
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name is not None and name not in known:
        print("sections:", *(f"  {section:<12} {told}" for section, told in known.items()), sep="\n")
        sys.exit(0 if name in ("-h", "--help") else 2)
    for section in [name] if name else known:
        print(f"== {section}", flush=True)
        sys.argv = [f"{sys.argv[0]} {section}", *(sys.argv[2:] if name else [])]
        _module(section).main(sys.argv[1:])


def _module(name: str) -> object:
    return importlib.import_module(f"benchmarks.lifecycle.{name}")


if __name__ == "__main__":
    main()
