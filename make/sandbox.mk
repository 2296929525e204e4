# The sandbox of workers is tested as it is used; a node itself runs without it too, and says so.
.PHONY: sandbox
sandbox: ## bubblewrap, which confines workers: installed by apt where we may, else the command to run is said
	@deploy/sandbox/require-bubblewrap

test-python: sandbox
