# The pages: made from the program where they are reference, checked among each other, and run.
docs: setup ## check every page and run every console block of README and the how-to pages
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m docs.check_pages
	$(BIN)/python -m docs.run_blocks

.PHONY: upgrade-kit
upgrade-kit: setup wheels ## make tests/upgrade/VERSION anew: the SDK's wheel and a data directory of this version
	$(BIN)/python tests/upgrade/make.py
