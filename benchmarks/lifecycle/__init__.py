"""The life of data, measured: one section a module, each with a docstring and `main(arguments)`.

    python -m benchmarks.lifecycle                       every section, one after the other
    python -m benchmarks.lifecycle SECTION [options]     one; --help shows its options

A module whose name begins with `_` is no section.
"""
