# The tests of the shared store run against a real PostgreSQL server; nothing else here needs one.
.PHONY: postgres
postgres: setup ## have PostgreSQL's server programs for the tests: installs them where it may, else says the command
	@$(BIN)/python -m blackbox.postgres

test-python: postgres
