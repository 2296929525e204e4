"""From what was made with MLflow, by people who never heard of this platform, to a package that `build_package` builds.

Called by `millstream models import` (a folder with an MLmodel file) and by `millstream build` (a folder with an MLproject file). Reads
text only: nothing here imports MLflow, unpickles or runs what is imported; that happens in a worker of the built release.
Invariant: what is written into a package or a model's files came out of one folder: no link is followed, no path leads out of it.
"""
