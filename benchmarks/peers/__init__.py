"""What the benchmarks compare with: adapters, and requirements of environments of their own."""
