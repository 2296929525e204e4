# Older versions of the server, each in an environment of its own: the tests replace its nodes by those of this version.
.PHONY: older-versions
older-versions: setup ## install the older versions that tests/upgrade keeps, into .older
	@$(BIN)/python -m blackbox.older

test-python: older-versions
