# What must pass before a change goes in; `.ci/run` adds a short attack and short benchmarks.
.PHONY: check ci
check: lint types imports docs test ## everything that a change must pass

ci: ## what CI runs
	.ci/run
