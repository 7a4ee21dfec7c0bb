"""The command line: `sdekit solvers | sample | likelihood | compare | train`."""
