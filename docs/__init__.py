"""The pages, and what keeps them true: `generate` makes the reference, `check_pages` follows links and names, `run_blocks` runs them.

Called by `make docs`. Invariant: a page that says what the program does not do fails the build.
"""
